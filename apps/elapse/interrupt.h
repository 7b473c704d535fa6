// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <signal.h>

namespace elapse {

// While one lives, the first Ctrl-C (SIGINT) or SIGTERM only asks for an end, so that what is made
// can be saved; the second ends the program as ever. One at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  bool asked() const;

 private:
  struct sigaction previous_int_;
  struct sigaction previous_term_;
};

}  // namespace elapse
