// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <chrono>
#include <memory>
#include <optional>
#include <span>

#include "apps/elapse/checks.h"
#include "apps/elapse/input.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "apps/elapse/verbs.h"
#include "elapse/eval/lambada.h"
#include "elapse/eval/text_evaluation.h"
#include "elapse/generate/model_text.h"
#include "elapse/io/file.h"
#include "elapse/io/json_writer.h"
#include "elapse/model/checkpoint.h"
#include "elapse/report/table.h"

namespace elapse {
namespace {

using Clock = std::chrono::steady_clock;
using Column = Table::Column;

struct Arguments {
  std::string model;
  std::string tokenizer;
  std::string text;
  std::pair<std::string, std::string> task;  // name and file
  int64_t window = 1024;
  std::optional<int64_t> stride;  // none: the window
  std::optional<int64_t> limit;   // none: all
  int64_t batch_tokens = 4096;
  std::string json;
  std::string device = "cpu";
  std::string dtype = "f32";
  int threads = 0;
};

constexpr const char* kFooter =
    "A text (--text) is cut into windows that each start from an empty state; with a stride below "
    "the window they overlap, and each scores only what none before it reached. --window 0 reads "
    "the whole text as one sequence, which a model of constant memory can, however long it is.\n"
    "LAMBADA (--task lambada) takes a file of JSON lines with the fields \"context\" and "
    "\"continuation\", and measures as lm-evaluation-harness does. docs/evaluation.md says what "
    "each number means and how it compares with other programs'.\n\n"
    "Examples:\n"
    "  elapse eval -m run --text book.txt\n"
    "  elapse eval -m run --text book.txt --window 2048 --stride 512 --json result.json\n"
    "  elapse eval -m run --text book.txt --window 0\n"
    "  head -c 100000 book.txt | elapse eval -m run --text -\n"
    "  elapse eval -m run --task lambada lambada.jsonl --limit 500";

std::unique_ptr<Tokenizer> open_tokenizer_of(const Arguments& args, const LanguageModel& model) {
  return open_model_text(args.model, model.config().vocab_size, args.tokenizer).tokenizer;
}

int64_t bytes_of(const Tokenizer& tokenizer, std::span<const int64_t> tokens) {
  size_t bytes = 0;
  for (const int64_t token : tokens) bytes += tokenizer.decode(token).size();
  return static_cast<int64_t>(bytes);
}

// A text's first `limit` tokens. No more of it is read than decides them: how a text is cut depends
// on what comes next, but not on what comes kBeyond bytes later, where a word has long ended.
std::vector<int64_t> first_tokens(const Tokenizer& tokenizer, TextInput input, int64_t limit) {
  constexpr int64_t kBeyond = 1 << 16;
  std::string text;
  std::vector<int64_t> tokens;
  const auto are_decided = [&] {
    const auto first = static_cast<size_t>(limit);
    return first < tokens.size() &&
           bytes_of(tokenizer, std::span(tokens).subspan(first)) >= kBeyond;
  };
  do {
    input.read(std::max<size_t>(text.size(), 2 * kBeyond), text);
    tokens = tokenizer.encode(text);
  } while (!input.ended() && !are_decided());
  if (limit < std::ssize(tokens)) tokens.resize(static_cast<size_t>(limit));
  return tokens;
}

// What is measured: the line of a table, and the fields of a JSON object, in one order.
class Measures {
 public:
  // `decimals` are the table's; JSON has the whole number.
  void add(const char* field, const char* heading, Table::Cell value, int decimals = 3) {
    columns_.push_back({heading, Table::Align::right, decimals});
    json_.key(field);
    std::visit([&](const auto& v) { json_.value(v); }, value);
    cells_.push_back(std::move(value));
  }
  void add_pace(int64_t tokens, double seconds) {
    add("seconds", "seconds", seconds, 1);
    add("tokens_per_second", "tokens/s", static_cast<double>(tokens) / std::max(seconds, 1e-9), 0);
  }
  // For the JSON object alone.
  template <class T>
  void note(const char* field, const T& value) {
    json_.field(field, value);
  }

  std::string table() const { return Table(columns_).add_row(cells_).text(); }
  std::string json() { return json_.end_object().text(); }

 private:
  std::vector<Column> columns_;
  std::vector<Table::Cell> cells_;
  JsonWriter json_ = std::move(JsonWriter().begin_object());
};

// Shows how far an evaluation is, and ends it on Ctrl-C with what was found so far.
class Watch {
 public:
  Watch(std::string unit, int64_t total) : unit_(unit), total_(total), progress_(unit, 0, total) {}

  void update(int64_t done, const std::string& found) {
    if (interrupt_.asked()) {
      interrupt_.end("interrupted after {} of {} {}s: {} so far", done, total_, unit_, found);
    }
    progress_.update(done, found);
  }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }

 private:
  std::string unit_;
  int64_t total_;
  Interrupt interrupt_;
  Progress progress_;
  Clock::time_point started_ = Clock::now();
};

Windows windows_of(const Arguments& args) {
  return {args.window, args.stride.value_or(args.window)};
}

void measure_text(const Arguments& args, const LanguageModel& model, Measures& measures) {
  const auto tokenizer = open_tokenizer_of(args, model);
  const std::vector<int64_t> tokens =
      args.limit ? first_tokens(*tokenizer, open_input(args.text), *args.limit)
                 : tokenizer->encode(open_input(args.text).read_all());
  ELAPSE_CHECK(tokens.size() >= 2, "{}: too short: expected at least 2 tokens, found {}", args.text,
               tokens.size());
  const Windows windows = windows_of(args);
  Watch watch("token", windows.scored_tokens(static_cast<int64_t>(tokens.size())));
  const TextEvaluation found = evaluate_text(
      model, *tokenizer, tokens, windows, args.batch_tokens,
      [&](int64_t, const TokenScore&, const TextEvaluation& so_far) {
        watch.update(so_far.nats.count(), fmt::format("perplexity {:.4f}", so_far.perplexity()));
      });
  measures.note("text", args.text);
  measures.note("window", windows.window);
  measures.note("stride", windows.stride);
  measures.add("windows", "windows", found.windows);
  measures.add("tokens", "tokens", found.nats.count());
  measures.add("bytes", "bytes", found.bytes);
  measures.add("nats_per_token", "nats/token", found.nats.mean(), 4);
  measures.add("bits_per_token", "bits/token", found.bits_per_token(), 4);
  measures.add("bits_per_byte", "bits/byte", found.bits_per_byte(), 4);
  measures.add("perplexity", "perplexity", found.perplexity(), 4);
  measures.add("perplexity_stderr", "+-", found.perplexity_error(), 4);
  measures.add_pace(found.nats.count(), watch.seconds());
}

void measure_lambada(const Arguments& args, const LanguageModel& model, Measures& measures) {
  const auto tokenizer = open_tokenizer_of(args, model);
  const std::string& path = args.task.second;
  const std::vector<Continuation> examples =
      parse_continuations(open_input(path).read_all(), path, args.limit.value_or(INT64_MAX));
  Watch watch("example", static_cast<int64_t>(examples.size()));
  const LambadaEvaluation found = evaluate_lambada(
      model, *tokenizer, examples, args.batch_tokens, [&](const LambadaEvaluation& so_far) {
        watch.update(so_far.accuracy.count(),
                     fmt::format("accuracy {:.2f} %, perplexity {:.2f}",
                                 100 * so_far.accuracy.mean(), so_far.perplexity()));
      });
  measures.note("task", args.task.first);
  measures.note("file", path);
  measures.add("examples", "examples", found.accuracy.count());
  measures.add("tokens", "tokens", found.tokens);
  measures.add("accuracy", "accuracy", found.accuracy.mean(), 4);
  measures.add("accuracy_stderr", "+-", found.accuracy.standard_error(), 4);
  measures.add("perplexity", "perplexity", found.perplexity(), 4);
  measures.add("perplexity_stderr", "+-", found.perplexity_error(), 4);
  measures.add_pace(found.tokens, watch.seconds());
}

void run_eval(const Arguments& args) {
  if (!args.json.empty()) check_writable(args.json);
  Device device(args.device, args.threads);
  const auto model =
      load_model(device, args.model, compute_dtype(args.dtype), WeightMemory::mapped);
  Measures measures;
  measures.note("model", args.model);
  if (args.text.empty()) {
    measure_lambada(args, *model, measures);
  } else {
    measure_text(args, *model, measures);
  }
  fmt::print("{}", measures.table());
  if (args.json.empty()) return;
  write_file_atomically(args.json, [&](FileWriter& file) { file.write(measures.json()); });
}

void check_usage(const CLI::App& verb, const Arguments& args) {
  if (!args.task.first.empty() && args.task.first != "lambada") {
    throw CLI::ValidationError("--task", "expected lambada, found " + args.task.first);
  }
  if (args.window == 0 && args.stride) {
    throw CLI::ValidationError("--stride", "--window 0 has one window, and no stride");
  }
  try {
    windows_of(args).check();
  } catch (const Error& error) {
    fail_usage(verb, error, {{"window", "--window"}, {"stride", "--stride"}});
  }
  const std::string text = args.text == "-" ? "" : args.text;
  check_replaces_none({"--json", args.json}, {{"--text", text},
                                              {"--task", args.task.second},
                                              {"--tokenizer", args.tokenizer},
                                              {"--model", args.model}});
}

void add_input_options(CLI::App& verb, Arguments& args) {
  auto* input = verb.add_option_group("Input", "What to evaluate on, one of these");
  input->add_option("--text", args.text, "Text; -: standard input")
      ->type_name("FILE")
      ->check(not_empty());
  CLI::Option* task = input->add_option("--task", args.task, "A task and its file: lambada FILE")
                          ->type_name("NAME FILE")
                          ->check(not_empty());
  input->require_option(1);
  verb.add_option("-w,--window", args.window, "Tokens read together; 0: the whole text")
      ->check(whole_number(0))
      ->excludes(task);
  verb.add_option("--stride", args.stride, "Tokens from window to window; as a rule the window")
      ->check(whole_number(1))
      ->excludes(task);
  verb.add_option("--limit", args.limit, "Tokens of the text or examples of the task at most")
      ->check(whole_number(1));
}

}  // namespace

void add_eval_verb(CLI::App& app) {
  CLI::App* verb =
      app.add_subcommand("eval", "Measure how well a model foresees text: perplexity, LAMBADA");
  verb->option_defaults()->always_capture_default();
  verb->footer(kFooter);
  const auto args = std::make_shared<Arguments>();
  verb->add_option("-m,--model", args->model, "Folder of the model")
      ->required()
      ->check(not_empty());
  verb->add_option("--tokenizer", args->tokenizer,
                   "tokenizer.json or a folder, where the model's folder has none")
      ->type_name("FILE")
      ->check(not_empty());
  add_input_options(*verb, *args);
  verb->add_option("--json", args->json, "Write the numbers here as well")
      ->type_name("FILE")
      ->check(not_empty());
  verb->add_option("--batch-tokens", args->batch_tokens,
                   "Tokens in one pass: decides memory and speed, not the numbers")
      ->check(whole_number(1));
  verb->add_option("--device", args->device, "What computes: cpu, ref or cuda");
  add_dtype_option(*verb, args->dtype);
  verb->add_option("--threads", args->threads, "Threads; 0: one a processor")
      ->check(whole_number(0, 1024));
  verb->callback([args, verb] {
    check_usage(*verb, *args);
    run_eval(*args);
  });
}

}  // namespace elapse
