// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace elapse {
namespace {

constexpr std::chrono::milliseconds kTerminalPause{100};
constexpr std::chrono::seconds kLogPause{10};
constexpr const char* kClearLine = "\r\033[K";

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60, rest = whole % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, rest);
  return fmt::format("{}:{:02}", minutes, rest);
}

Progress::Progress(std::string unit, int64_t done, int64_t total)
    : unit_(std::move(unit)),
      begin_(done),
      total_(total),
      terminal_(::isatty(STDERR_FILENO) == 1),
      started_(Clock::now()),
      shown_(started_) {}

Progress::~Progress() { clear(); }

void Progress::update(int64_t done, std::string_view details) {
  if (!due(done)) return;
  const std::string line =
      fmt::format("{} {}/{}  {}  {} left", unit_, done, total_, details, time_left(done));
  if (!terminal_) return message(line);
  fmt::print(stderr, "{}{}", kClearLine, line);
  std::fflush(stderr);
  on_line_ = true;
}

void Progress::message(std::string_view line) {
  clear();
  fmt::print(stderr, "{}\n", line);
}

bool Progress::due(int64_t done) {
  const auto now = Clock::now();
  if (now - shown_ < (terminal_ ? kTerminalPause : kLogPause) && done < total_) return false;
  shown_ = now;
  return true;
}

std::string Progress::time_left(int64_t done) const {
  const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  const auto worked = static_cast<double>(done - begin_);
  if (worked <= 0) return "?";
  return clock_text(seconds / worked * static_cast<double>(total_ - done));
}

void Progress::clear() {
  if (on_line_) fmt::print(stderr, "{}", kClearLine);
  on_line_ = false;
}

}  // namespace elapse
