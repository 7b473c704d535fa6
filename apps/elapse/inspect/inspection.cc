// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/inspect/inspection.h"

#include <fmt/format.h>

#include <filesystem>

#include "apps/elapse/checks.h"
#include "apps/elapse/input.h"
#include "apps/elapse/output.h"
#include "elapse/io/file.h"
#include "elapse/io/messages.h"
#include "elapse/text/tokenizer_file.h"

namespace elapse {

namespace fs = std::filesystem;

CLI::App* add_method(CLI::App& inspect, const std::string& name, const std::string& about,
                     const std::string& example, InspectOptions& options,
                     const std::string& prompts) {
  CLI::App* verb = inspect.add_subcommand(name, about);
  verb->option_defaults()->always_capture_default();
  verb->footer("Example:\n  elapse inspect " + example +
               "\ndocs/inspecting.md says what each number means, and what the files hold.");
  verb->add_option("-m,--model", options.model, "Folder of the model")
      ->required()
      ->check(not_empty());
  if (!prompts.empty()) {
    verb->add_option("--prompts", options.prompts, prompts)
        ->type_name("FILE")
        ->required()
        ->check(not_empty());
    verb->add_option("--tokenizer", options.tokenizer,
                     "tokenizer.json or a folder, where the model's folder has none")
        ->type_name("FILE")
        ->check(not_empty());
  }
  verb->add_option("--out", options.out, "Folder for report.html and result.json")
      ->type_name("DIR")
      ->check(not_empty());
  verb->add_option("--device", options.device, "What computes: cpu, ref or cuda");
  add_dtype_option(*verb, options.dtype);
  verb->add_option("--threads", options.threads, "Threads; 0: one a processor")
      ->check(whole_number(0, 1024));
  return verb;
}

namespace {

// None where the model's folder has none and its classes are no bytes: prompts are numbers then.
std::unique_ptr<Tokenizer> tokenizer_of(const InspectOptions& options, int64_t classes) {
  const bool there = !options.tokenizer.empty() || find_tokenizer(options.model) || classes == 256;
  if (!there) return nullptr;
  return open_model_text(options.model, classes, options.tokenizer).tokenizer;
}

}  // namespace

Inspection::Inspection(const InspectOptions& options, bool in_float32)
    : options_(options), device_(options.device, options.threads) {
  if (!options.out.empty()) {
    std::error_code error;
    fs::create_directories(options.out, error);
    ELAPSE_CHECK(!error, "{}: cannot make the folder: {}", options.out, error.message());
    check_writable((fs::path(options.out) / "report.html").string());
  }
  model_ = load_model(device_, options.model, compute_dtype(options.dtype),
                      in_float32 ? WeightMemory::trained : WeightMemory::mapped);
  if (!options.prompts.empty()) tokenizer_ = tokenizer_of(options, model_->config().vocab_size);
}

std::vector<PromptPair> Inspection::pairs() const {
  return parse_prompt_pairs(open_input(options_.prompts).read_all(), options_.prompts,
                            tokenizer_.get(), model_->config().vocab_size);
}

std::vector<Prompt> Inspection::noted_prompts(const std::string& path) const {
  return parse_noted_prompts(open_input(path).read_all(), path, tokenizer_.get(),
                             model_->config().vocab_size);
}

TokenLists Inspection::prompts() const {
  return parse_prompts(open_input(options_.prompts).read_all(), options_.prompts, tokenizer_.get(),
                       model_->config().vocab_size);
}

std::string Inspection::token_name(int64_t token) const {
  if (tokenizer_ == nullptr) return fmt::format("{}", token);
  std::string name;
  for (const char c : tokenizer_->decode(token)) {
    if (c == ' ') name += "·";
    else if (c == '\n') name += "↵";
    else name += c;
  }
  const std::string quoted = quote(name);
  return quoted.substr(1, quoted.size() - 2);
}

std::string Inspection::place_name(const std::vector<int64_t>& tokens, int64_t place) const {
  return fmt::format("{} {}", place, token_name(tokens[static_cast<size_t>(place)]));
}

std::vector<std::string> Inspection::token_names(const std::vector<int64_t>& tokens) const {
  std::vector<std::string> names;
  for (const int64_t token : tokens) names.push_back(token_name(token));
  return names;
}

std::vector<std::string> Inspection::layer_names() const {
  std::vector<std::string> names;
  for (int64_t i = 0; i < model_->config().n_layers; ++i) names.push_back(fmt::format("{}", i));
  return names;
}

std::function<void(int64_t, int64_t)> Inspection::progress(const std::string& unit) {
  end_progress();
  interrupt_.emplace();
  return [this, unit](int64_t done, int64_t total) {
    if (interrupt_->asked()) {
      interrupt_->end("interrupted at {} {} of {}: nothing was written", unit, done, total);
    }
    if (!line_) line_ = std::make_unique<Progress>(unit, 0, total);
    line_->update(done, "");
  };
}

void Inspection::end_progress() {
  line_.reset();
  interrupt_.reset();
}

std::string Inspection::task_sentence(const LastLogits& logits,
                                      const std::vector<Answer>& answers) const {
  const TaskScore score = task_score(logits, answers);
  return fmt::format(
      "The model prefers the right answer in {:.1f} % of {} prompts: mean logit difference {:.3f}, "
      "mean absolute {:.3f}, probability {:.3f}, rank {:.1f}.",
      100 * score.accuracy, answers.size(), score.logit_difference, score.absolute_logit_difference,
      score.probability, score.mean_rank);
}

void finish(const InspectOptions& options, const std::string& text, const Report& report,
            JsonWriter& json) {
  show(text);
  if (options.out.empty()) return;
  const fs::path folder = options.out;
  const auto write = [&](const char* name, const std::string& content) {
    write_file_atomically((folder / name).string(), [&](FileWriter& file) { file.write(content); });
  };
  write("result.json", json.end_object().text());
  write("report.html", report.html());
  show(fmt::format("The picture: {}\n", fs::absolute(folder / "report.html").string()));
}

std::vector<Answer> answers_of(const std::vector<PromptPair>& pairs) {
  std::vector<Answer> answers;
  for (const PromptPair& pair : pairs) answers.push_back(pair.answer);
  return answers;
}

TokenLists clean_of(const std::vector<PromptPair>& pairs) {
  TokenLists lists;
  for (const PromptPair& pair : pairs) lists.push_back(pair.clean);
  return lists;
}

TokenLists corrupt_of(const std::vector<PromptPair>& pairs) {
  TokenLists lists;
  for (const PromptPair& pair : pairs) lists.push_back(pair.corrupt);
  return lists;
}

}  // namespace elapse
