// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/App.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "elapse/interpret/graph.h"
#include "elapse/interpret/prompts.h"
#include "elapse/io/json_writer.h"
#include "elapse/model/checkpoint.h"
#include "elapse/report/report.h"

// What the verbs below `elapse inspect` share: their options, the model they open, and the table,
// JSON and page they end in.
namespace elapse {

struct InspectOptions {
  std::string model, tokenizer, prompts;
  std::string out;  // folder for report.html and result.json; empty: neither
  std::string device = "cpu", dtype = "f32";
  int threads = 0;
};

CLI::App* add_method(CLI::App& inspect, const std::string& name, const std::string& about,
                     const std::string& example, InspectOptions& options,
                     const std::string& prompts);  // what --prompts is; empty: there is none

// A loaded model with its tokenizer, if it has one. Mapped weights unless `in_float32`, which the
// methods that go backwards need (in bf16 too: matrices that are rounded have no gradients).
class Inspection {
 public:
  explicit Inspection(const InspectOptions& options, bool in_float32 = false);

  Device& device() { return device_; }
  const LanguageModel& model() const { return *model_; }
  ResidualGraph graph() const { return ResidualGraph(model_->config()); }
  std::vector<PromptPair> pairs() const;
  TokenLists prompts() const;
  std::vector<Prompt> noted_prompts(const std::string& path) const;
  // Its text, with spaces that can be seen and bytes that are no UTF-8 as \xNN; or its number.
  std::string token_name(int64_t token) const;
  std::string place_name(const std::vector<int64_t>& tokens, int64_t place) const;  // "7 ·Mary"
  std::vector<std::string> token_names(const std::vector<int64_t>& tokens) const;
  std::vector<std::string> layer_names() const;  // "0", "1", ...

  // A progress line, until end_progress(); Ctrl-C ends the work.
  std::function<void(int64_t done, int64_t total)> progress(const std::string& unit);
  void end_progress();

  // How well the model does the task, which every method that explains one opens with.
  std::string task_sentence(const LastLogits& logits, const std::vector<Answer>& answers) const;

 private:
  const InspectOptions& options_;
  Device device_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<Interrupt> interrupt_;  // where somebody looks whether it was asked for
  std::unique_ptr<Progress> line_;
};

// Prints the text; writes the page and the JSON object where --out is given.
void finish(const InspectOptions& options, const std::string& text, const Report& report,
            JsonWriter& json /* its object still open */);

std::vector<Answer> answers_of(const std::vector<PromptPair>& pairs);
TokenLists clean_of(const std::vector<PromptPair>& pairs);
TokenLists corrupt_of(const std::vector<PromptPair>& pairs);

}  // namespace elapse
