// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/runs.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <limits>
#include <numeric>

#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"
#include "elapse/model/checkpoint.h"
#include "elapse/train/checkpoint.h"
#include "elapse/train/trainer.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kSecondsBetweenSaves = 30;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr const char* kDtype = "dtype";

// What decides the numbers of a run.
Settings settings_of(const RunPlan& plan) {
  Settings all = settings(plan.train, plan.model, plan.source->description());
  all.emplace_back(kDtype, name_of(plan.activations));
  all.emplace_back("seed", fmt::format("{}", plan.seed));
  all.emplace_back("all_steps", fmt::format("{}", plan.train.steps));
  all.emplace_back("tests", plan.tests.what);
  return all;
}

constexpr const char* kNotSaid = "not said";  // by a run.json without these fields

// What a run's folder says of it beside its checkpoint: run.json.
class Record {
 public:
  Record(const Device& device, const RunPlan& plan, std::string folder)
      : backend_(device.name()),
        settings_(settings_of(plan)),
        steps_(plan.train.steps),
        tests_(plan.tests.count),
        folder_(std::move(folder)),
        path_((fs::path(folder_) / "run.json").string()) {}

  // Whether the run is finished. `result` is what is known of it.
  bool read(RunResult& result) const {
    if (!file_exists(path_)) return false;
    const Json json = Json::parse(read_text(path_), path_);
    check(json.at("settings"));
    const bool finished = json.has("diverged") || json.has("tests");
    if (finished) result.device = json.text("device", kNotSaid);
    else check_backend(json.text("backend", kNotSaid));
    result.training_seconds = json.number("training_seconds");
    result.losses.clear();
    for (const Json& loss : json.at("losses").items()) result.losses.push_back(loss.number());
    if (!finished) return false;
    if (json.has("diverged")) {
      const Json at = json.at("diverged");
      result.diverged = {at.integer("step"), at.text("reason")};
      check_count("step", result.diverged->step, std::ssize(result.losses) + 1);
    } else {
      result.testing_seconds = json.number("testing_seconds");
      for (const Json& test : json.at("tests").items()) result.tests.push_back(evaluation(test));
      check_count("tests", std::ssize(result.tests), tests_);
      check_count("losses", std::ssize(result.losses), steps_);
    }
    return true;
  }

  void write(const RunResult& result, bool finished) const {
    JsonWriter json;
    json.begin_object().key("settings").begin_object();
    for (const auto& [name, value] : settings_) json.field(name, value);
    json.end_object().field("backend", backend_).field("device", result.device);
    json.field("training_seconds", result.training_seconds);
    if (result.diverged) {
      json.key("diverged").begin_object().field("step", result.diverged->step);
      json.field("reason", result.diverged->reason).end_object();
    } else if (finished) {
      json.field("testing_seconds", result.testing_seconds).key("tests").begin_array();
      for (const Evaluation& e : result.tests) write_evaluation(json, e);
      json.end_array();
    }
    json.field("losses", result.losses).end_object();
    write_file_atomically(path_, [&](FileWriter& file) { file.write(json.text()); });
  }

 private:
  void check(const Json& before) const {
    for (const auto& [name, value] : settings_) {
      const std::string found = before.text(name, name == kDtype ? name_of(DType::f32) : "none");
      ELAPSE_CHECK(found == value,
                   "{}: a run of other settings: \"{}\" was \"{}\", is \"{}\"; it is kept, so "
                   "remove {} or take another folder",
                   path_, name, found, value, folder_);
    }
  }

  void check_backend(const std::string& before) const {
    ELAPSE_CHECK(before == backend_,
                 "{}: a run on another device that is not finished: \"backend\" was \"{}\", is "
                 "\"{}\"; it is kept, so remove {} or take another folder",
                 path_, before, backend_, folder_);
  }

  void check_count(const char* field, int64_t found, int64_t expected) const {
    ELAPSE_CHECK(found == expected, "{}: \"{}\": expected {}, found {}", path_, field, expected,
                 found);
  }

  static Evaluation evaluation(const Json& json) {
    return {.loss = json.number("loss", std::numeric_limits<double>::quiet_NaN()),
            .accuracy = json.number("accuracy"),
            .targets = json.integer("targets"),
            .length = json.integer("length")};
  }

  static void write_evaluation(JsonWriter& json, const Evaluation& e) {
    json.begin_object().field("length", e.length).field("loss", e.loss);
    json.field("accuracy", e.accuracy).field("targets", e.targets).end_object();
  }

  std::string backend_;
  Settings settings_;
  int64_t steps_, tests_;
  std::string folder_;
  std::string path_;
};

// One run that is not finished.
class Training {
 public:
  Training(const RunPlan& plan, const std::string& folder, const Record& record,
           const LanguageModel& model, RunResult& result)
      : plan_(plan),
        folder_(folder),
        record_(record),
        trainer_(model, *plan.source, plan.train),
        result_(result) {
    if (has_checkpoint(folder)) trainer_.resume(folder);
    // Losses that a killed process had written of steps that it had not saved are seen again.
    const auto steps = static_cast<size_t>(trainer_.steps_done());
    ELAPSE_CHECK(result.losses.size() >= steps,
                 "{}: expected the losses of {} steps in run.json, found {}", folder, steps,
                 result.losses.size());
    result.losses.resize(steps);
  }

  void run(const OnExperimentProgress& progress) {
    save();
    while (!trainer_.finished()) {
      const StepReport step = trainer_.step();
      result_.losses.push_back(step.loss);
      result_.training_seconds += step.seconds;
      try {
        progress({"train", step.step, plan_.train.steps,
                  fmt::format("length {}, loss {:.4f}", step.length, step.loss)});
      } catch (...) {
        save();
        throw;
      }
      if (seconds_since(saved_) > kSecondsBetweenSaves) save();
    }
    save();
  }

 private:
  void save() {
    record_.write(result_, false);
    trainer_.save(folder_);
    saved_ = Clock::now();
  }

  const RunPlan& plan_;
  const std::string& folder_;
  const Record& record_;
  Trainer trainer_;
  RunResult& result_;
  Clock::time_point saved_;
};

RunResult run_one(Device& device, const RunPlan& plan, const std::string& folder,
                  const OnExperimentProgress& progress) {
  const FolderLock lock = prepare_run_folder(folder);
  const Record record(device, plan, folder);
  RunResult result;
  result.parameters = plan.model.parameter_count();
  result.device = device_text(device, plan.activations);
  if (record.read(result)) return result;
  const LanguageModel model(device, plan.model, plan.activations, plan.seed);
  try {
    Training(plan, folder, record, model, result).run(progress);
  } catch (const Diverged& at) {
    result.diverged = {at.step(), at.reason()};
  }
  device.pool().trim();
  const auto start = Clock::now();
  if (!result.diverged) result.tests = plan.tests.run(model, *plan.source, progress);
  result.testing_seconds = seconds_since(start);
  record.write(result, true);
  fs::remove(resume_path(folder));  // three times the model's size, and nothing goes on from it
  device.pool().trim();
  return result;
}

}  // namespace

double RunResult::final_loss() const {
  const auto last = losses.end() - std::min<std::ptrdiff_t>(50, std::ssize(losses));
  return std::accumulate(last, losses.end(), 0.0) / static_cast<double>(losses.end() - last);
}

RunTests held_out_tests(int64_t length) {
  return {.what = fmt::format("held out, length {}", length),
          .run = [length](const LanguageModel& model, const TokenSource& source,
                          const OnExperimentProgress&) {
            return std::vector<Evaluation>{evaluate(model, source, length)};
          }};
}

std::vector<RunResult> run_all(Device& device, const std::vector<RunPlan>& plans,
                               const std::string& folder, const OnExperimentProgress& progress) {
  std::vector<RunResult> results;
  for (const RunPlan& plan : plans) {
    const std::string title =
        plans.size() == 1 ? ""
                          : fmt::format("{}/{} {}: ", results.size() + 1, plans.size(), plan.title);
    results.push_back(
        run_one(device, plan, run_folder(folder, plan.name), [&](ExperimentProgress now) {
          now.stage = title + now.stage;
          progress(now);
        }));
  }
  return results;
}

std::string device_text(const Device& device, DType activations) {
  const std::string text =
      fmt::format("{} ({}, {} threads)", device.name(), device.describe(), device.threads());
  return activations == DType::f32 ? text : fmt::format("{} in {}", text, name_of(activations));
}

std::string run_folder(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / "runs" / name).string();
}

}  // namespace elapse
