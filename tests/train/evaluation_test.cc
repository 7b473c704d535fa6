// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/evaluation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "elapse/data/text_data.h"
#include "elapse/ops/pointwise.h"
#include "elapse/text/byte_tokenizer.h"
#include "tests/train/tiny_run.h"

namespace elapse {
namespace {

// With an embedding of zeros all logits are 0: nothing is preferred.
TEST(Evaluate, a_model_that_knows_nothing_is_at_chance) {
  Device device("ref");
  ModelConfig shape = TinyRun::shape();
  shape.vocab_size = ByteTokenizer::kVocabSize;
  const LanguageModel model(device, shape, DType::f64, 1);
  fill(device, {model.parameters().find("backbone.embedding.weight")->var.value(), 0});
  const std::string text = std::string(900, 'a') + std::string(60, '\0') + std::string(40, 'b');
  const Evaluation result = evaluate(model, TextData(text, "text", 1), 16);
  EXPECT_NEAR(result.loss, std::log(256.0), 1e-12);
  EXPECT_EQ(result.targets, 99);
  EXPECT_EQ(result.length, 16);
  EXPECT_NEAR(result.accuracy, 59.0 / 99, 1e-12);  // the first of equal logits is token 0's
}

// Batches of unequal size: the mean is over targets, not over batches.
TEST(Evaluate, is_the_mean_over_all_targets) {
  Device device("ref");
  ModelConfig shape = TinyRun::shape();
  shape.vocab_size = ByteTokenizer::kVocabSize;
  const LanguageModel model(device, shape, DType::f64, 1);
  std::string text(100'000, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i * i % 13);
  const TextData data(text, "text", 1);
  ASSERT_EQ(data.held_out_batches(16), 2);
  double sum = 0;
  for (int64_t i = 0; i < 2; ++i) {
    const TokenBatch batch = data.held_out_batch(i, 16);
    const auto count = static_cast<int64_t>(batch.tokens.size());
    Tape tape(device, false);
    const Batch input = {
        device.upload(batch.tokens, {count}), make_sequences(device, batch.lengths), {}};
    const Tensor logits = model.forward(tape, input).value();
    for (int64_t t = 0; t < count; ++t) {
      const double* row = logits.data<double>() + t * 256;
      double total = 0;
      for (int64_t v = 0; v < 256; ++v) total += std::exp(row[v]);
      sum += std::log(total) - row[batch.targets[static_cast<size_t>(t)]];
    }
  }
  EXPECT_NEAR(evaluate(model, data, 16).loss, sum / 9999, 1e-10);
}

}  // namespace
}  // namespace elapse
