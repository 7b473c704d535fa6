// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/data/token_source.h"

namespace elapse {

// Text as bytes, one token a byte. Of n bytes the first 9 n / 10 (rounded down) train, in windows
// that begin anywhere; the rest is held out, and is read once, window after window from its
// beginning: every held-out byte but the first is a target once, predicted from the bytes of its
// window before it.
class TextData final : public TokenSource {
 public:
  static constexpr int64_t kVocabSize = 256;

  // The files one after the other. Throws Error naming a file that is empty or cannot be read.
  static TextData open(const std::vector<std::string>& paths, uint64_t seed);

  // `name` opens the sentences of errors.
  TextData(std::string bytes, std::string name, uint64_t seed);

  int64_t vocab_size() const override { return kVocabSize; }
  std::string description() const override;
  // Training needs one byte more than `length`, held out there have to be two.
  void check_length(int64_t length) const override;
  TokenBatch training_batch(int64_t step, int64_t first, int64_t count,
                            int64_t length) const override;
  int64_t held_out_batches(int64_t length) const override;
  TokenBatch held_out_batch(int64_t index, int64_t length) const override;

  int64_t training_bytes() const { return training_bytes_; }
  int64_t held_out_bytes() const { return static_cast<int64_t>(bytes_.size()) - training_bytes_; }

 private:
  void append_window(int64_t begin, int64_t length, TokenBatch& batch) const;

  std::string bytes_;
  std::string name_;
  uint64_t seed_;
  uint64_t hash_;
  int64_t training_bytes_;
};

}  // namespace elapse
