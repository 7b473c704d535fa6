// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/interrupt.h"

namespace elapse {
namespace {

// A signal handler reaches nothing but what is global.
volatile sig_atomic_t interrupted = 0;  // the signal's number

// With room for the widest registers, which a signal saves there.
constexpr size_t kStackBytes = 64 << 10;

}  // namespace

Interrupt::Interrupt() : stack_(kStackBytes) {
  interrupted = 0;
  stack_t own = {};
  own.ss_sp = stack_.data();
  own.ss_size = stack_.size();
  sigaltstack(&own, &previous_stack_);
  struct sigaction action = {};
  action.sa_handler = [](int signal) { interrupted = signal; };
  action.sa_flags = SA_RESETHAND | SA_RESTART | SA_ONSTACK;
  sigaction(SIGINT, &action, &previous_int_);
  sigaction(SIGTERM, &action, &previous_term_);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &previous_int_, nullptr);
  sigaction(SIGTERM, &previous_term_, nullptr);
  sigaltstack(&previous_stack_, nullptr);
}

int Interrupt::signal() { return interrupted; }

}  // namespace elapse
