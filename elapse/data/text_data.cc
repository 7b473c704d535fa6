// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/text_data.h"

#include <algorithm>

#include "elapse/core/error.h"
#include "elapse/core/hash.h"
#include "elapse/data/streams.h"
#include "elapse/io/text_input.h"
#include "elapse/text/byte_tokenizer.h"

namespace elapse {
namespace {

constexpr int64_t kHeldOutTokens = 8192;  // of a batch, unless one window is longer

int64_t windows_a_batch(int64_t length) { return std::max<int64_t>(1, kHeldOutTokens / length); }

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

TextData TextData::open(const std::vector<std::string>& paths, uint64_t seed,
                        const Tokenizer* tokenizer) {
  std::string bytes, name;
  for (const std::string& path : paths) {
    const std::string text = TextInput(path).read_all();
    ELAPSE_CHECK(!text.empty(), "{}: expected text, found an empty file", path);
    bytes += text;
    name += (name.empty() ? "" : " + ") + path;
  }
  if (tokenizer != nullptr) return {*tokenizer, bytes, std::move(name), seed};
  return {std::move(bytes), std::move(name), seed};
}

TextData::TextData(std::string bytes, std::string name, uint64_t seed)
    : TextData(PackedTokens(std::move(bytes)), "bytes", ByteTokenizer::kVocabSize, std::move(name),
               seed) {}

TextData::TextData(const Tokenizer& tokenizer, std::string_view text, std::string name,
                   uint64_t seed)
    : TextData(PackedTokens(tokenizer.encode(text), tokenizer.vocab_size()), "tokens",
               tokenizer.vocab_size(), std::move(name), seed) {}

TextData::TextData(PackedTokens tokens, const char* unit, int64_t vocab_size, std::string name,
                   uint64_t seed)
    : tokens_(std::move(tokens)),
      unit_(unit),
      vocab_size_(vocab_size),
      name_(std::move(name)),
      seed_(seed),
      hash_(fnv1a(tokens_.bytes())),
      training_tokens_(tokens_.size() - divide_up(tokens_.size(), 10)) {}

std::string TextData::description() const {
  return fmt::format("text of {} {}, hash {:016x}, seed {}", tokens_.size(), unit_, hash_, seed_);
}

void TextData::check_length(int64_t length) const {
  ELAPSE_CHECK(length >= 1, "{}: expected a length of at least 1, found {}", name_, length);
  ELAPSE_CHECK(training_tokens_ > length && held_out_tokens() >= 2,
               "{}: too short for sequences of {} tokens: expected more than {} {} to train on "
               "and at least 2 held out, found {} and {}",
               name_, length, length, unit_, training_tokens_, held_out_tokens());
}

void TextData::append_window(int64_t begin, int64_t length, TokenBatch& batch) const {
  for (int64_t i = begin; i < begin + length; ++i) {
    batch.tokens.push_back(tokens_[i]);
    batch.targets.push_back(tokens_[i + 1]);
  }
  batch.lengths.push_back(length);
}

TokenBatch TextData::training_batch(int64_t step, int64_t first, int64_t count,
                                    int64_t length) const {
  TokenBatch batch;
  for (int64_t i = first; i < first + count; ++i) {
    Random random = sequence_random(seed_, Draw::training, step, i);
    append_window(random.below(training_tokens_ - length), length, batch);
  }
  return batch;
}

int64_t TextData::held_out_batches(int64_t length) const {
  return divide_up(divide_up(held_out_tokens() - 1, length), windows_a_batch(length));
}

TokenBatch TextData::held_out_batch(int64_t index, int64_t length) const {
  const int64_t last = tokens_.size() - 1;  // only predicted
  const int64_t per_batch = windows_a_batch(length);
  int64_t begin = training_tokens_ + index * per_batch * length;
  TokenBatch batch;
  for (int64_t i = 0; i < per_batch && begin < last; ++i, begin += length) {
    append_window(begin, std::min(length, last - begin), batch);
  }
  return batch;
}

}  // namespace elapse
