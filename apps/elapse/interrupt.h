// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <signal.h>

#include <vector>

#include "elapse/core/error.h"

namespace elapse {

// What ends a verb that a signal asked to end. The program's exit status is then 128 and the
// signal's number, as a shell says of a program that the signal itself ended.
class Interrupted : public Error {
 public:
  Interrupted(const std::string& sentence, int signal) : Error(sentence), signal_(signal) {}
  int signal() const { return signal_; }

 private:
  int signal_;
};

// While one lives, the first Ctrl-C (SIGINT) or SIGTERM only asks for an end, so that what is made
// can be saved; the second ends the program as ever. One at a time, of the main thread, which gets
// the process's signals. They are handled on a stack of their own: on the common one they now and
// then corrupted the heap within oneDNN 2.6's generated products, as if these kept values below the
// stack's end.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool asked() const { return signal() != 0; }
  // Throws Interrupted with a sentence that says what came of the work. Once asked().
  template <class... Args>
  [[noreturn]] void end(fmt::format_string<Args...> format, Args&&... args) const {
    throw Interrupted(fmt::format(format, std::forward<Args>(args)...), signal());
  }

 private:
  static int signal();  // that asked; 0: none

  std::vector<char> stack_;
  stack_t previous_stack_;
  struct sigaction previous_int_;
  struct sigaction previous_term_;
};

}  // namespace elapse
