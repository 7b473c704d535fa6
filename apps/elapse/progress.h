// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace elapse {

// How far a long piece of work has come, on stderr: on a terminal one line that is written over,
// else a line every ten seconds.
class Progress {
 public:
  // Of `total` units of work `done` are done already; `unit` names one ("step").
  Progress(std::string unit, int64_t done, int64_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // "step 120/5000  <details>  3:20 left"
  void update(int64_t done, std::string_view details);
  void message(std::string_view line);  // a line that stays

 private:
  using Clock = std::chrono::steady_clock;

  bool due(int64_t done);
  std::string time_left(int64_t done) const;
  void clear();

  std::string unit_;
  int64_t begin_;
  int64_t total_;
  bool terminal_;
  Clock::time_point started_;
  Clock::time_point shown_;
  bool on_line_ = false;  // a line waits to be written over
};

// 75 -> "1:15", 3675 -> "1:01:15"
std::string clock_text(double seconds);

}  // namespace elapse
