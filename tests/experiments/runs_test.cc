// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/runs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "elapse/data/induction.h"
#include "elapse/io/file.h"
#include "tests/can_open.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

RunPlan plan(const std::string& name, uint64_t seed) {
  RunPlan p = {.name = name,
               .title = name,
               .model = ModelConfig::mamba(8, 1, InductionTask::kVocabSize),
               .train = {},
               .seed = seed,
               .source = std::make_shared<InductionTask>(seed, InductionTask::Loss::last_token),
               .tests = held_out_tests(16)};
  p.train.steps = 12;
  p.train.batch_tokens = 32;
  p.train.length = 16;
  p.train.schedule = {.kind = Schedule::Kind::cosine, .peak_lr = 1e-2, .min_lr = 1e-3};
  return p;
}

const OnExperimentProgress kQuiet = [](const ExperimentProgress&) {};

class Stopped : public std::exception {};

void expect_equal(const RunResult& a, const RunResult& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.parameters, b.parameters);
  ASSERT_EQ(a.tests.size(), b.tests.size());
  for (size_t i = 0; i < a.tests.size(); ++i) {
    EXPECT_EQ(a.tests[i].loss, b.tests[i].loss);
    EXPECT_EQ(a.tests[i].accuracy, b.tests[i].accuracy);
    EXPECT_EQ(a.tests[i].targets, b.tests[i].targets);
    EXPECT_EQ(a.tests[i].length, b.tests[i].length);
  }
}

TEST(Runs, AStoppedRunGoesOnBitForBitAndAFinishedOneStays) {
  const TemporaryFolder whole, parts;
  Device device("cpu", 2);
  const std::vector<RunPlan> plans = {plan("first", 1), plan("second", 2)};
  const auto expected = run_all(device, plans, whole.path(), kQuiet);
  // Stopped in the second run after steps 1 and 7.
  std::vector<std::string> seen;
  for (const int64_t stop_at : {1, 7}) {
    EXPECT_THROW(run_all(device, plans, parts.path(),
                         [&](const ExperimentProgress& now) {
                           seen.push_back(fmt::format("{} {}", now.stage, now.done));
                           if (now.stage == "2/2 second: train" && now.done == stop_at) {
                             throw Stopped();
                           }
                         }),
                 Stopped);
  }
  const auto found = run_all(device, plans, parts.path(), [&](const ExperimentProgress& now) {
    seen.push_back(fmt::format("{} {}", now.stage, now.done));
  });
  ASSERT_EQ(found.size(), 2U);
  for (size_t i = 0; i < 2; ++i) expect_equal(found[i], expected[i]);
  std::vector<std::string> once;  // every step of both, none twice
  for (const char* name : {"1/2 first", "2/2 second"}) {
    for (int step = 1; step <= 12; ++step) once.push_back(fmt::format("{}: train {}", name, step));
  }
  EXPECT_EQ(seen, once);
  const auto again = run_all(device, plans, parts.path(),
                             [](const ExperimentProgress& now) { FAIL() << now.stage; });
  for (size_t i = 0; i < 2; ++i) expect_equal(again[i], expected[i]);
}

TEST(Runs, AFinishedRunLeavesItsModelAndNoMoments) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  run_all(device, {plan("only", 1)}, folder.path(), kQuiet);
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(run_folder(folder.path(), "only"))) {
    files.push_back(entry.path().filename().string());
  }
  std::sort(files.begin(), files.end());
  EXPECT_EQ(files, (std::vector<std::string>{"config.json", "model.safetensors", "run.json"}));
}

TEST(Runs, AnotherRunsFolderIsNotReplaced) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  run_all(device, {plan("only", 1)}, folder.path(), kQuiet);
  const auto refused = [&](const RunPlan& other, const char* part) {
    expect_error([&] { run_all(device, {other}, folder.path(), kQuiet); }, part);
  };
  RunPlan other = plan("only", 2);
  refused(other, "\"data\" was \"induction heads");
  other = plan("only", 1);
  other.train.steps = 13;
  refused(other, "\"steps\" was \"12\", is \"13\"");
  other = plan("only", 1);
  other.tests = held_out_tests(8);
  refused(other, "\"tests\" was \"held out, length 16\", is \"held out, length 8\"");
  other = plan("only", 1);
  other.seed = 3;
  refused(other, "\"seed\" was \"1\", is \"3\"");
  other = plan("only", 1);
  other.activations = DType::bf16;
  refused(other, "\"dtype\" was \"f32\", is \"bf16\"");
}

// run.json with a part of it replaced.
void damage(const std::string& folder, const std::string& part, const std::string& by) {
  const std::string path = (fs::path(run_folder(folder, "only")) / "run.json").string();
  std::string text = read_text(path);
  const size_t at = text.find(part);
  ASSERT_NE(at, std::string::npos) << part << " in " << text;
  text.replace(at, text.find('\n', at) - at, by);
  write_file_atomically(path, [&](FileWriter& file) { file.write(text); });
}

void stop_at(Device& device, const std::string& folder, int64_t step) {
  EXPECT_THROW(run_all(device, {plan("only", 1)}, folder,
                       [&](const ExperimentProgress& now) {
                         if (now.done == step) throw Stopped();
                       }),
               Stopped);
}

TEST(Runs, ARunIsOfTheDeviceThatItWasRunOn) {
  const TemporaryFolder folder;
  Device cpu("cpu", 1), two("cpu", 2), ref("ref");
  stop_at(cpu, folder.path(), 3);
  const auto again = [&](Device& device) {
    return run_all(device, {plan("only", 1)}, folder.path(), kQuiet).front();
  };
  expect_error([&] { again(ref); }, "\"backend\" was \"cpu\", is \"ref\"");
  const RunResult finished = again(two);  // which gives the same bits
  EXPECT_EQ(finished.device, fmt::format("cpu ({}, 2 threads)", two.describe()));
  EXPECT_EQ(again(ref).device, finished.device);
  EXPECT_EQ(again(cpu).device, finished.device);
}

TEST(Runs, OfAnOlderRecordTheDeviceIsNotSaid) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  stop_at(device, folder.path(), 3);
  damage(folder.path(), "\"backend\"", "");
  expect_error([&] { run_all(device, {plan("only", 1)}, folder.path(), kQuiet); },
               "\"backend\" was \"not said\", is \"cpu\"");
  const TemporaryFolder other;
  run_all(device, {plan("only", 1)}, other.path(), kQuiet);
  damage(other.path(), "\"backend\"", "");
  damage(other.path(), "\"device\"", "");
  EXPECT_EQ(run_all(device, {plan("only", 1)}, other.path(), kQuiet).front().device, "not said");
}

TEST(Runs, AnOlderRecordIsInFloat32) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  const auto expected = run_all(device, {plan("only", 1)}, folder.path(), kQuiet);
  damage(folder.path(), "\"dtype\"", "");
  expect_equal(run_all(device, {plan("only", 1)}, folder.path(), kQuiet).front(), expected.front());
}

TEST(Runs, InBf16GoOnBitForBit) {
  if (!can_open("cuda")) GTEST_SKIP() << "no cuda device can be opened here";
  const TemporaryFolder folder;
  Device device("cuda");
  RunPlan narrow = plan("only", 1);
  narrow.activations = DType::bf16;
  const auto expected = run_all(device, {narrow}, folder / "whole", kQuiet).front();
  EXPECT_EQ(expected.device, device_text(device, DType::bf16));
  EXPECT_NE(expected.losses,
            run_all(device, {plan("only", 1)}, folder / "f32", kQuiet).front().losses);
  EXPECT_THROW(run_all(device, {narrow}, folder / "parts",
                       [&](const ExperimentProgress& now) {
                         if (now.done == 3) throw Stopped();
                       }),
               Stopped);
  expect_equal(run_all(device, {narrow}, folder / "parts", kQuiet).front(), expected);
}

TEST(Runs, ARecordWithoutItsTestsOrLossesIsRefused) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  RunPlan wild = plan("only", 1);
  wild.train.schedule = {.peak_lr = 1e38};
  run_all(device, {wild}, folder / "diverged", kQuiet);
  damage(folder / "diverged", "\"losses\"", "\"losses\": []");
  expect_error([&] { run_all(device, {wild}, folder / "diverged", kQuiet); },
               "run.json: \"step\": expected 1, found ");
  run_all(device, {plan("only", 1)}, folder / "tests", kQuiet);
  run_all(device, {plan("only", 1)}, folder / "losses", kQuiet);
  damage(folder / "losses", "\"losses\"", "\"losses\": [1]");
  expect_error([&] { run_all(device, {plan("only", 1)}, folder / "losses", kQuiet); },
               "run.json: \"losses\": expected 12, found 1");
  const std::string path = run_folder(folder / "tests", "only") + "/run.json";
  std::string text = read_text(path);
  const size_t begin = text.find('{', text.find("\"tests\": [")), end = text.find(']', begin);
  text.erase(begin, end - begin);
  write_file_atomically(path, [&](FileWriter& file) { file.write(text); });
  expect_error([&] { run_all(device, {plan("only", 1)}, folder / "tests", kQuiet); },
               "run.json: \"tests\": expected 1, found 0");
}

TEST(Runs, ATestThatFailsLeavesTheTrainingDone) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  RunPlan p = plan("only", 1);
  const auto expected = run_all(device, {p}, folder / "whole", kQuiet);
  const RunTests tests = p.tests;
  p.tests.run = [](const LanguageModel&, const TokenSource&,
                   const OnExperimentProgress&) -> std::vector<Evaluation> { throw Stopped(); };
  EXPECT_THROW(run_all(device, {p}, folder / "parts", kQuiet), Stopped);
  p.tests = tests;
  const auto found = run_all(device, {p}, folder / "parts",
                             [](const ExperimentProgress& now) { FAIL() << now.stage; });
  expect_equal(found.front(), expected.front());
}

TEST(Runs, ADivergingRunIsRecordedAndTheNextGoesOn) {
  const TemporaryFolder folder;
  Device device("cpu", 1);
  RunPlan wild = plan("wild", 1);
  wild.train.schedule = {.peak_lr = 1e38};
  wild.tests.run = [](const LanguageModel&, const TokenSource&,
                      const OnExperimentProgress&) -> std::vector<Evaluation> {
    ADD_FAILURE() << "tested";
    return {};
  };
  const std::vector<RunPlan> plans = {wild, plan("sound", 1)};
  const auto results = run_all(device, plans, folder.path(), kQuiet);
  ASSERT_TRUE(results[0].diverged.has_value());
  EXPECT_GT(results[0].diverged->step, 1);
  EXPECT_EQ(results[0].diverged->step, std::ssize(results[0].losses) + 1);
  EXPECT_NE(results[0].diverged->reason.find("is not finite"), std::string::npos);
  EXPECT_TRUE(results[0].tests.empty());
  EXPECT_FALSE(results[1].diverged.has_value());
  EXPECT_EQ(results[1].tests.size(), 1U);
  EXPECT_TRUE(fs::exists(fs::path(run_folder(folder.path(), "wild")) / "model.safetensors"));
  EXPECT_FALSE(fs::exists(fs::path(run_folder(folder.path(), "wild")) / "resume.safetensors"));
  // The same command finds it finished.
  const auto again = run_all(device, plans, folder.path(),
                             [](const ExperimentProgress& now) { FAIL() << now.stage; });
  EXPECT_EQ(again[0].diverged->step, results[0].diverged->step);
  EXPECT_EQ(again[0].diverged->reason, results[0].diverged->reason);
  expect_equal(again[0], results[0]);
}

}  // namespace
}  // namespace elapse
