// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/packed_tokens.h"
#include "elapse/data/token_source.h"
#include "elapse/text/tokenizer.h"

namespace elapse {

// Text as the tokens of a tokenizer or as bytes, one token a byte. Of n tokens the first 9 n / 10
// (rounded down) train, in windows that begin anywhere; the rest is held out, and is read once,
// window after window from its beginning: every held-out token but the first is a target once,
// predicted from the tokens of its window before it.
class TextData final : public TokenSource {
 public:
  // The files, or what comes out of pipes, one after the other; without a tokenizer as bytes.
  // Throws Error naming a file that is empty or that TextInput does not take.
  static TextData open(const std::vector<std::string>& paths, uint64_t seed,
                       const Tokenizer* tokenizer = nullptr);

  // `name` opens the sentences of errors.
  TextData(std::string bytes, std::string name, uint64_t seed);
  TextData(const Tokenizer& tokenizer, std::string_view text, std::string name, uint64_t seed);

  int64_t vocab_size() const override { return vocab_size_; }
  std::string description() const override;
  // Training needs one token more than `length`, held out there have to be two.
  void check_length(int64_t length) const override;
  TokenBatch training_batch(int64_t step, int64_t first, int64_t count,
                            int64_t length) const override;
  int64_t held_out_batches(int64_t length) const override;
  TokenBatch held_out_batch(int64_t index, int64_t length) const override;

  int64_t training_tokens() const { return training_tokens_; }
  int64_t held_out_tokens() const { return tokens_.size() - training_tokens_; }

 private:
  TextData(PackedTokens tokens, const char* unit, int64_t vocab_size, std::string name,
           uint64_t seed);
  void append_window(int64_t begin, int64_t length, TokenBatch& batch) const;

  PackedTokens tokens_;
  const char* unit_;  // what a token is called: "bytes"
  int64_t vocab_size_;
  std::string name_;
  uint64_t seed_;
  uint64_t hash_;
  int64_t training_tokens_;
};

}  // namespace elapse
