// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/regex_syntax.h"

#include <algorithm>
#include <array>
#include <utility>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/io/utf8.h"

namespace elapse {
namespace {

// The insides of classes. PCRE2's own \s and \w differ: U+180E is a space to it, and a mark no part
// of a word.
constexpr std::string_view kSpace = R"(\t-\r \x{85}\p{Z})";
constexpr std::string_view kWord = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d})";
constexpr std::string_view kDigit = R"(\p{Nd})";

constexpr std::array<std::string_view, 7> kGroups = {"(?:",  "(?i:", "(?=", "(?!",
                                                     "(?<=", "(?<!", "(?>"};
constexpr std::string_view kControls = "tnrf";  // the same letters, the same characters
constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ";

class Translation {
 public:
  Translation(std::string_view regex, const std::string& where) : rest_(regex), where_(where) {}

  std::string run() {
    while (!rest_.empty()) step();
    if (in_class_) refuse("a class that does not end");
    return std::move(out_);
  }

 private:
  bool comes(std::string_view text) const { return rest_.starts_with(text); }
  void copy(size_t count) {
    out_ += rest_.substr(0, count);
    rest_.remove_prefix(count);
  }
  [[noreturn]] void refuse(std::string_view found) const {
    fail(
        "{}: expected a regular expression of what is known (characters, classes, \\s \\S \\w "
        "\\W \\d \\D \\p{{..}} \\P{{..}}, groups, (?i:, lookaround, |, * + ? {{m,n}}), found {}",
        where_, found);
  }

  void step() {
    const char c = rest_.front();
    if (c == '\\') return escape();
    if (in_class_) return within_class(c);
    if (c == '(') return open_group();
    if (c == '[') return open_class();
    if (c == '^' || c == '$') refuse(quote(rest_.substr(0, 1)));  // a line's ends, or the text's
    if (comes("{,") || comes("}+")) refuse(quote(rest_.substr(0, 2)));
    copy(std::max<size_t>(1, utf8_character(rest_)));
  }

  void open_class() {
    in_class_ = true;
    copy(comes("[^") ? 2 : 1);
    if (comes("]")) refuse("a class that begins with ]");
  }

  void within_class(char c) {
    if (c == '[' || comes("&&")) refuse(quote(rest_.substr(0, 2)) + " in a class");
    in_class_ = c != ']';
    copy(std::max<size_t>(1, utf8_character(rest_)));
  }

  void open_group() {
    if (comes("(*")) refuse(quote(rest_.substr(0, 2)));
    if (!comes("(?")) return copy(1);
    for (const auto group : kGroups) {
      if (comes(group)) return copy(group.size());
    }
    refuse(quote(rest_.substr(0, 3)));
  }

  void escape() {
    const char c = rest_.size() > 1 ? rest_[1] : '\0';
    if (c == 'p' || c == 'P') return property();
    if (std::string_view("sSwWdD").find(c) != std::string_view::npos) return character_class(c);
    const bool same = kControls.find(c) != std::string_view::npos ||
                      kPunctuation.find(c) != std::string_view::npos;
    if (!same) refuse(quote(rest_.substr(0, 2)));
    copy(2);
  }

  // General categories alone: scripts are larger in PCRE2, which adds their extensions.
  void property() {
    const size_t end = rest_.find('}');
    const auto name = end == rest_.npos ? "" : rest_.substr(2, end - 2);
    const bool known = name.size() >= 2 && name.size() <= 3 && name[0] == '{' &&
                       std::string_view("LMNPSZC").find(name[1]) != std::string_view::npos;
    if (!known) refuse(quote(rest_.substr(0, std::min<size_t>(end, 20))));
    copy(end + 1);
  }

  void character_class(char c) {
    const char kind = static_cast<char>(c | 0x20);
    const bool negated = c != kind;
    const auto inside = kind == 's' ? kSpace : kind == 'w' ? kWord : kDigit;
    if (in_class_ && negated) refuse(quote(rest_.substr(0, 2)) + " in a class");
    out_ += in_class_ ? inside : fmt::format("[{}{}]", negated ? "^" : "", inside);
    rest_.remove_prefix(2);
  }

  std::string_view rest_;
  const std::string& where_;
  std::string out_;
  bool in_class_ = false;
};

}  // namespace

std::string pcre2_syntax(std::string_view oniguruma, const std::string& where) {
  return Translation(oniguruma, where).run();
}

}  // namespace elapse
