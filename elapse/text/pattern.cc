// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/text/regex_syntax.h"

namespace elapse {
namespace {

// What one match may cost. A text of spaces alone takes a try a byte, which must go through; an
// expression with nested repetition takes a power of the length, which must not.
constexpr uint32_t kMostTries = 20'000'000;
constexpr uint32_t kMostHeap = 64 * 1024;  // KiB
constexpr size_t kLongestRegex = 64 * 1024;

constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Freed<pcre2_match_data_free>>;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

size_t next_character(std::string_view text, size_t at) {
  do {
    ++at;
  } while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

}  // namespace

struct Pattern::Compiled {
  std::unique_ptr<pcre2_code, Freed<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Freed<pcre2_match_context_free>> context;
  bool jit = false;

  // pcre2_match's result; where the first match at or after `from` lies is in `data`.
  int match(std::string_view text, size_t from, pcre2_match_data* data) const {
    int result = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit) {
      result = pcre2_jit_match(code.get(), units(text), text.size(), from, 0, data, context.get());
    }
    if (result != PCRE2_ERROR_JIT_STACKLIMIT) return result;
    return pcre2_match(code.get(), units(text), text.size(), from,
                       PCRE2_NO_JIT | PCRE2_NO_UTF_CHECK, data, context.get());
  }
};

Pattern::Pattern(std::string_view regex, std::string where) : where_(std::move(where)) {
  ELAPSE_CHECK(regex.size() <= kLongestRegex,
               "{}: expected a regular expression of at most {} bytes, found {}", where_,
               kLongestRegex, regex.size());
  const std::string translated = pcre2_syntax(regex, where_);
  auto compiled = std::make_shared<Compiled>();
  int error = 0;
  PCRE2_SIZE offset = 0;
  compiled->code.reset(
      pcre2_compile(units(translated), translated.size(), kOptions, &error, &offset, nullptr));
  ELAPSE_CHECK(compiled->code != nullptr, "{}: expected a regular expression, found {}: {}", where_,
               quote(regex), message_of(error));
  compiled->jit = pcre2_jit_compile(compiled->code.get(), PCRE2_JIT_COMPLETE) == 0;
  compiled->context.reset(pcre2_match_context_create(nullptr));
  pcre2_set_match_limit(compiled->context.get(), kMostTries);
  pcre2_set_heap_limit(compiled->context.get(), kMostHeap);
  compiled_ = std::move(compiled);
}

void Pattern::split(std::string_view text, const PieceVisitor& visit) const {
  const MatchData data(pcre2_match_data_create(1, nullptr));
  const PCRE2_SIZE* match = pcre2_get_ovector_pointer(data.get());
  const auto visit_part = [&](size_t begin, size_t end) {
    if (begin < end) visit(text.substr(begin, end - begin));
  };
  size_t done = 0;
  for (size_t from = 0; from < text.size();) {
    const int result = compiled_->match(text, from, data.get());
    if (result == PCRE2_ERROR_NOMATCH) break;
    ELAPSE_CHECK(result >= 0, "{}: cannot split a text of {} bytes by this expression: {}", where_,
                 text.size(), message_of(result));
    visit_part(done, match[0]);
    visit_part(match[0], match[1]);
    done = match[1];
    from = match[0] < match[1] ? match[1] : next_character(text, match[1]);
  }
  visit_part(done, text.size());
}

}  // namespace elapse
