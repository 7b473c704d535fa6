// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/train_log.h"

#include <cerrno>
#include <filesystem>
#include <sstream>
#include <system_error>

#include "elapse/core/error.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

// The lines of the first `steps_done` steps.
std::string lines_until(const std::string& path, int64_t steps_done) {
  if (!std::filesystem::exists(path)) return "";
  std::istringstream lines(read_text(path));
  std::string kept, line;
  for (int64_t number = 1; std::getline(lines, line) && !lines.eof(); ++number) {
    const Json step = Json::parse(line, fmt::format("{}: line {}", path, number));
    if (step.integer("step") > steps_done) break;
    kept += line + "\n";
  }
  return kept;
}

}  // namespace

void make_folder_of(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  ELAPSE_CHECK(!error, "{}: cannot make its folder: {}", path, error.message());
}

TrainLog::TrainLog(std::string path, int64_t steps_done) : path_(std::move(path)) {
  if (!std::filesystem::exists(path_) || std::filesystem::is_regular_file(path_)) {
    const std::string kept = steps_done > 0 ? lines_until(path_, steps_done) : "";
    write_file_atomically(path_, [&](FileWriter& file) { file.write(kept); });
  }  // else a device or pipe, which must not be replaced by a file
  out_.open(path_, std::ios::app);
  ELAPSE_CHECK(out_.is_open(), "{}: cannot open: {}", path_,
               std::generic_category().message(errno));
}

void TrainLog::write(const StepReport& step, const std::optional<Evaluation>& evaluation) {
  JsonWriter json(JsonWriter::Style::one_line);
  json.begin_object()
      .field("step", step.step)
      .field("loss", step.loss)
      .field("lr", step.lr)
      .field("gradient_norm", step.gradient_norm)
      .field("length", step.length)
      .field("tokens", step.tokens)
      .field("seconds", step.seconds);
  if (evaluation) {
    json.field("eval_loss", evaluation->loss).field("eval_accuracy", evaluation->accuracy);
  }
  out_ << json.end_object().text() << "\n" << std::flush;
  ELAPSE_CHECK(out_.good(), "{}: cannot write step {}: {}", path_, step.step,
               std::generic_category().message(errno));
}

}  // namespace elapse
