// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "elapse/core/error.h"
#include "elapse/io/utf8.h"
#include "elapse/text/byte_level.h"
#include "elapse/text/word_cache.h"

namespace elapse {
namespace {

constexpr int32_t kNoToken = -1;
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes at the front of `text` that are characters, or that belong to none.
size_t run_length(std::string_view text, bool characters) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = utf8_character(text.substr(at));
    if ((length > 0) != characters) break;
    at += std::max<size_t>(1, length);
  }
  return at;
}

bool occurs_in_utf8(size_t byte) { return byte < 0xC0 || (byte >= 0xC2 && byte <= 0xF4); }

}  // namespace

struct BpeTokenizer::Encoder {
  std::vector<int64_t> tokens;
  std::string normalized;    // the text between added tokens
  std::vector<int32_t> row;  // of the piece at hand
  std::vector<Bpe::Found> scratch;
  WordCache cache;

  void append(std::span<const int32_t> ids) {
    for (const int32_t id : ids) tokens.push_back(id);
  }
};

// An encoder that nobody else uses meanwhile. After an exception it is not used again.
class BpeTokenizer::LentEncoder {
 public:
  explicit LentEncoder(const BpeTokenizer& owner) : owner_(owner) {
    const std::lock_guard lock(owner_.mutex_);
    if (owner_.idle_.empty()) return;
    encoder_ = std::move(owner_.idle_.back());
    owner_.idle_.pop_back();
  }
  LentEncoder(const LentEncoder&) = delete;
  LentEncoder& operator=(const LentEncoder&) = delete;

  Encoder& operator*() {
    if (!encoder_) encoder_ = std::make_unique<Encoder>();
    return *encoder_;
  }
  void give_back() {
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(encoder_));
  }

 private:
  const BpeTokenizer& owner_;
  std::unique_ptr<Encoder> encoder_;
};

BpeTokenizer::BpeTokenizer(BpeDescription description, const std::string& name)
    : vocabulary_(std::move(description.vocabulary)),
      bpe_(description.merges),
      ignore_merges_(description.ignore_merges),
      normalizer_(std::move(description.normalizer)),
      pre_tokenizer_(std::move(description.pre_tokenizer)),
      prefix_(std::move(description.prefix)) {
  bytes_.reserve(vocabulary_.tokens().size());
  for (const auto& token : vocabulary_.tokens()) {
    const std::string text = token.value_or("");
    bytes_.push_back(byte_level_bytes(text).value_or(text));
  }
  set_byte_tokens(name);
  set_added(std::move(description.added));
}

BpeTokenizer::~BpeTokenizer() = default;

void BpeTokenizer::set_byte_tokens(const std::string& name) {
  for (size_t b = 0; b < byte_tokens_.size(); ++b) {
    const char byte = static_cast<char>(b);
    byte_tokens_[b] = vocabulary_.find(byte_level_text({&byte, 1})).value_or(kNoToken);
    ELAPSE_CHECK(byte_tokens_[b] != kNoToken || !occurs_in_utf8(b),
                 "{}: expected a token for every byte that UTF-8 text may have, found none for "
                 "0x{:02x}",
                 name, b);
  }
}

void BpeTokenizer::set_added(std::vector<AddedToken> added) {
  std::string buffer;
  for (AddedToken& token : added) {
    bytes_[static_cast<size_t>(token.id)] = token.content;
    added_.emplace(token.content, token.id);
    if (token.normalized) {
      token.content = normalizer_.apply(token.content, buffer);
      as_normalized_.add(std::move(token));
    } else {
      as_written_.add(std::move(token));
    }
  }
}

std::vector<int64_t> BpeTokenizer::encode(std::string_view text) const {
  LentEncoder lent(*this);
  Encoder& encoder = *lent;
  encoder.tokens.clear();
  encoder.tokens.reserve(text.size() / 4);  // what English takes, about
  while (!text.empty()) {
    const size_t characters = run_length(text, true);
    encode_characters(encoder, text.substr(0, characters));
    text.remove_prefix(characters);
    const size_t others = run_length(text, false);
    if (others > 0) encode_piece(encoder, text.substr(0, others));
    text.remove_prefix(others);
  }
  std::vector<int64_t> tokens = std::exchange(encoder.tokens, {});
  lent.give_back();
  return tokens;
}

std::string BpeTokenizer::decode(int64_t token) const {
  ELAPSE_CHECK(token >= 0 && token < vocab_size(), "tokenizer: expected a token below {}, found {}",
               vocab_size(), token);
  return bytes_[static_cast<size_t>(token)];
}

std::optional<int64_t> BpeTokenizer::added_token(std::string_view content) const {
  const auto found = added_.find(std::string(content));
  return found == added_.end() ? std::nullopt : std::optional(found->second);
}

void BpeTokenizer::encode_characters(Encoder& encoder, std::string_view text) const {
  const auto append_token = [&](int64_t id) { encoder.tokens.push_back(id); };
  as_written_.split(
      text,
      [&](std::string_view part) {
        as_normalized_.split(
            normalizer_.apply(part, encoder.normalized),
            [&](std::string_view normalized) { encode_normalized(encoder, normalized); },
            append_token);
      },
      append_token);
}

void BpeTokenizer::encode_normalized(Encoder& encoder, std::string_view text) const {
  pre_tokenizer_.split(text, [&](std::string_view piece) { encode_piece(encoder, piece); });
}

void BpeTokenizer::encode_piece(Encoder& encoder, std::string_view piece) const {
  const bool cached = piece.size() <= WordCache::kMaxPiece;
  if (cached) {
    if (const auto* known = encoder.cache.find(piece)) return encoder.append(known->span());
  }
  merge_piece(encoder, piece);
  if (cached) encoder.cache.insert(encoder.row);
  encoder.append(encoder.row);
}

void BpeTokenizer::merge_piece(Encoder& encoder, std::string_view piece) const {
  encoder.row.clear();
  if (ignore_merges_) {
    const auto whole = vocabulary_.find(byte_level_text(piece));
    if (whole) return encoder.row.push_back(*whole);
  }
  const auto append_byte = [&](char byte) {
    const int32_t token = byte_tokens_[static_cast<unsigned char>(byte)];
    if (token != kNoToken) encoder.row.push_back(token);
    return token != kNoToken;
  };
  for (const char byte : piece) {
    if (!append_byte(byte)) std::for_each(kReplacement.begin(), kReplacement.end(), append_byte);
  }
  bpe_.merge(encoder.row, encoder.scratch);
}

}  // namespace elapse
