// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <signal.h>

#include <vector>

namespace elapse {

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

  bool asked() const;

 private:
  std::vector<char> stack_;
  stack_t previous_stack_;
  struct sigaction previous_int_;
  struct sigaction previous_term_;
};

}  // namespace elapse
