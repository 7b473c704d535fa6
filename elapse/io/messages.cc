// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/messages.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "elapse/io/utf8.h"

namespace elapse {
namespace {

constexpr size_t kMaxQuoted = 100;    // bytes
constexpr size_t kMaxCompared = 200;  // bytes of a name that the edit distance looks at
constexpr size_t kMaxNearest = 3;

// Levenshtein's distance, one row at a time.
size_t edit_distance(std::string_view a, std::string_view b) {
  a = a.substr(0, kMaxCompared);
  b = b.substr(0, kMaxCompared);
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

}  // namespace

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (size_t i = 0; i < text.size();) {
    if (i >= kMaxQuoted) return out + "...\"";
    const size_t length = utf8_character(text.substr(i));
    if (length == 0 || is_control(text[i])) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[i++]));
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out + "\"";
}

std::string nearest_names(std::string_view name, const std::vector<std::string_view>& names) {
  std::vector<std::pair<size_t, std::string_view>> by_distance;
  for (const auto candidate : names) {
    by_distance.emplace_back(edit_distance(name, candidate), candidate);
  }
  const size_t count = std::min(kMaxNearest, names.size());
  std::partial_sort(by_distance.begin(), by_distance.begin() + static_cast<ptrdiff_t>(count),
                    by_distance.end());
  std::vector<std::string> nearest;
  for (size_t i = 0; i < count; ++i) nearest.push_back(quote(by_distance[i].second));
  return fmt::format("{}", fmt::join(nearest, ", "));
}

}  // namespace elapse
