// SPDX-License-Identifier: Apache-2.0
#include "elapse/train/run.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "elapse/train/checkpoint.h"
#include "tests/io/expect_error.h"
#include "tests/io/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace elapse {
namespace {

// Notes steps and evaluations, and the step of the checkpoint that lies there before each step.
class Notes final : public RunObserver {
 public:
  Notes(std::string folder, int64_t stop_after) : folder_(std::move(folder)), stop_(stop_after) {}

  void after_step(const StepReport& step, const std::optional<Evaluation>& evaluation) override {
    steps.push_back(step.step);
    if (evaluation) evaluated.push_back(step.step);
    saved.push_back(saved_step());
  }
  bool wants_to_stop() override { return static_cast<int64_t>(steps.size()) == stop_; }

  int64_t saved_step() const {
    TinyRun run(tiny_training(7));
    run.trainer().resume(folder_);
    return run.trainer().steps_done();
  }

  std::vector<int64_t> steps, evaluated, saved;

 private:
  std::string folder_;
  int64_t stop_;
};

RunConfig run_config(const std::string& folder) {
  RunConfig config;
  config.out = folder;
  config.save_every = 3;
  config.eval_every = 2;
  config.eval_length = 8;
  return config;
}

using Steps = std::vector<int64_t>;

TEST(Run, evaluates_and_saves_when_due_and_at_the_end) {
  const TemporaryFolder folder;
  TinyRun run_of(tiny_training(7));
  Notes notes(folder / "out", 100);
  const FolderLock lock = prepare_run_folder(folder / "out");
  run(run_of.trainer(), run_config(folder / "out"), notes);
  EXPECT_EQ(notes.steps, (Steps{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(notes.evaluated, (Steps{2, 4, 6, 7}));
  EXPECT_EQ(notes.saved, (Steps{0, 0, 0, 3, 3, 3, 6}));
  EXPECT_EQ(notes.saved_step(), 7);
}

TEST(Run, saves_where_it_is_stopped_and_goes_on_from_there) {
  const TemporaryFolder folder;
  TinyRun whole(tiny_training(7)), first(tiny_training(7)), second(tiny_training(7));
  Notes all(folder / "all", 100), before(folder / "out", 4), after(folder / "out", 100);
  const FolderLock of_all = prepare_run_folder(folder / "all");
  const FolderLock of_out = prepare_run_folder(folder / "out");
  run(whole.trainer(), run_config(folder / "all"), all);
  run(first.trainer(), run_config(folder / "out"), before);
  EXPECT_EQ(before.steps, (Steps{1, 2, 3, 4}));
  EXPECT_EQ(before.saved_step(), 4);
  second.trainer().resume(folder / "out");
  run(second.trainer(), run_config(folder / "out"), after);
  EXPECT_EQ(after.steps, (Steps{5, 6, 7}));
  EXPECT_EQ(second.weights(), whole.weights());
}

TEST(Run, finds_out_before_the_first_step_that_it_cannot_save) {
  const TemporaryFolder folder;
  TinyRun subject(tiny_training(7));
  Notes notes(folder.path(), 100);
  expect_error([&] { run(subject.trainer(), run_config(folder / "none"), notes); },
               "none/resume.safetensors: the folder to write it to is not there");
  EXPECT_TRUE(notes.steps.empty());
}

TEST(PrepareRunFolder, makes_it_for_one_at_a_time) {
  const TemporaryFolder folder;
  {
    const FolderLock lock = prepare_run_folder(folder / "a/out");
    std::ofstream(folder / "a/out/config.json.tmp-3-1") << "being written";
    expect_error([&] { FolderLock second = prepare_run_folder(folder / "a/out"); },
                 "another process is at work");
    EXPECT_TRUE(std::filesystem::exists(folder / "a/out/config.json.tmp-3-1"));
  }
  const FolderLock again = prepare_run_folder(folder / "a/out");
  std::ofstream(folder / "file") << "x";
  expect_error([&] { FolderLock second = prepare_run_folder(folder / "file/out"); },
               "file/out: cannot make the folder: Not a directory");
}

TEST(PrepareRunFolder, removes_what_a_killed_process_left_and_nothing_else) {
  const TemporaryFolder folder;
  const std::vector<std::string> kept = {"config.json", "notes.tmp-1-0"};
  const std::vector<std::string> left = {"resume.safetensors.tmp-12-0", "config.json.tmp-3-1",
                                         "model.safetensors.tmp-5-0"};
  for (const auto* names : {&kept, &left}) {
    for (const std::string& name : *names) std::ofstream(folder / name) << "x";
  }
  const FolderLock lock = prepare_run_folder(folder.path());
  for (const std::string& name : kept) EXPECT_TRUE(std::filesystem::exists(folder / name)) << name;
  for (const std::string& name : left) EXPECT_FALSE(std::filesystem::exists(folder / name)) << name;
}

}  // namespace
}  // namespace elapse
