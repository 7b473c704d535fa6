// SPDX-License-Identifier: Apache-2.0
// Scores of checkpoints in published layouts, some of padded vocabularies, against the logits and
// the loss of an independent implementation in double precision.
#include "tests/model/golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "elapse/eval/running_mean.h"
#include "elapse/eval/scorer.h"

namespace elapse {
namespace {

class EvalGolden : public testing::TestWithParam<GoldenCase> {};

TEST_P(EvalGolden, TokensHaveTheProbabilitiesOfTheExpectedLogits) {
  Golden golden(GetParam());
  const bool exact = GetParam().dtype == DType::f64;
  const double tolerance = exact ? 1e-11 : 1e-4;  // those of logits up to 10, over all classes
  const Tensor ids = golden.expected().at("input_ids"), logits = golden.expected().at("logits");
  const int64_t rows = ids.dim(0), length = ids.dim(1), vocab = logits.dim(2);
  RunningMean nats;
  Scorer scorer(golden.model(), 50, [&](const TokenScore& score) {
    const double* row =
        logits.data<double>() + (score.sequence * length + score.position - 1) * vocab;
    double sum = 0;
    for (int64_t v = 0; v < vocab; ++v) sum += std::exp(row[v]);
    EXPECT_NEAR(score.log_probability, row[score.token] - std::log(sum), tolerance);
    EXPECT_EQ(score.likeliest, std::max_element(row, row + vocab) - row == score.token);
    nats.add(-score.log_probability);
  });
  for (int64_t r = 0; r < rows; ++r) {
    scorer.add({ids.data<int64_t>() + r * length, static_cast<size_t>(length)}, 1);
  }
  scorer.finish();
  EXPECT_EQ(nats.count(), rows * (length - 1));
  EXPECT_NEAR(nats.mean(), *golden.expected().at("loss").data<double>(), tolerance);
}

INSTANTIATE_TEST_SUITE_P(Fixtures, EvalGolden, testing::ValuesIn(golden_cases(kFixtures)),
                         [](const auto& golden) { return name_of(golden.param); });

}  // namespace
}  // namespace elapse
