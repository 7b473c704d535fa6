// SPDX-License-Identifier: Apache-2.0
#include "elapse/generate/generate.h"

#include <unistd.h>

#include <CLI/App.hpp>
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/input.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/output.h"
#include "apps/elapse/verbs.h"
#include "elapse/generate/model_text.h"
#include "elapse/io/file.h"
#include "elapse/io/messages.h"
#include "elapse/model/checkpoint.h"
#include "elapse/text/text_stream.h"

namespace elapse {
namespace {

using Clock = std::chrono::steady_clock;

struct Arguments {
  std::string model;
  std::optional<std::string> prompt, prompt_file, prompt_tokens;
  int64_t max_tokens = 256;
  SamplerOptions sampler;
  std::vector<std::string> stops;
  std::string tokenizer;
  bool ignore_eos = false;
  std::string save_state, load_state;
  std::string device = "cpu";
  std::string dtype = "f32";
  int threads = 0;
  bool verbose = false;
};

constexpr const char* kFooter =
    "The text goes to standard output as it is made. It is cut into tokens by the tokenizer in the "
    "model's folder, or into bytes, and is over at an end-of-text token. By default it is drawn "
    "from the model's own "
    "distribution; --temp, --top-k, --top-p and --min-p act as in llama.cpp.\n"
    "A state saved with --save-state holds all the model has read and written, in a file of "
    "constant "
    "size. Ctrl-C ends the text, with exit status 130, and still saves.\n\n"
    "Examples:\n"
    "  elapse generate -m run -p 'Once upon a time' --top-p 0.9 --stop $'\\n\\n'\n"
    "  elapse generate -m run -f book.txt -n 0 --save-state book.state\n"
    "  elapse generate -m run --load-state book.state -p 'In the end, ' --seed 7\n"
    "  elapse generate -m heads --prompt-tokens 3,1,15,4,1,5,15 --temp 0 -n 1";

// Tokens and the seconds they took.
struct Pace {
  int64_t tokens = 0;
  double seconds = 0;

  double per_second() const { return static_cast<double>(tokens) / std::max(seconds, 1e-9); }
};

template <class Body>
Pace time(Body&& body) {
  const auto start = Clock::now();
  const int64_t tokens = body();
  return {tokens, std::chrono::duration<double>(Clock::now() - start).count()};
}

// "3,1,4"; nothing for "".
std::vector<int64_t> parse_tokens(std::string_view list) {
  std::vector<int64_t> tokens;
  const char* at = list.data();
  const char* const end = at + list.size();
  while (at != end) {
    int64_t token = 0;
    const auto [rest, error] = std::from_chars(at, end, token);
    const bool ends_well = rest == end || (*rest == ',' && rest + 1 != end);
    if (error != std::errc() || !ends_well) {
      throw CLI::ValidationError("--prompt-tokens",
                                 "expected numbers with commas between, found " + quote(list));
    }
    tokens.push_back(token);
    at = rest == end ? end : rest + 1;
  }
  return tokens;
}

ModelText open_text(const Arguments& args, int64_t vocab_size) {
  try {
    return open_model_text(args.model, vocab_size, args.tokenizer);
  } catch (const Error& error) {
    fail("{}; --tokenizer takes another, --prompt-tokens needs none", error.what());
  }
}

// What is not there yet of a text's beginning, if it is one, and the prompt.
std::vector<int64_t> encode_prompt(const Tokenizer& tokenizer, const std::string& prompt,
                                   bool begins) {
  std::vector<int64_t> tokens = begins ? tokenizer.prefix() : std::vector<int64_t>();
  const std::vector<int64_t> encoded = tokenizer.encode(prompt);
  tokens.insert(tokens.end(), encoded.begin(), encoded.end());
  return tokens;
}

// A model may have classes that its tokenizer has no tokens for.
std::string text_of(const Tokenizer& tokenizer, int64_t token) {
  return token < tokenizer.vocab_size() ? tokenizer.decode(token) : "";
}

int64_t write_text(const Arguments& args, const ModelText& text, const Interrupt& interrupt,
                   Session& session) {
  TextStream stream(args.stops);
  const auto ends = [&](int64_t token) {
    return !args.ignore_eos &&
           std::find(text.ends.begin(), text.ends.end(), token) != text.ends.end();
  };
  const int64_t count =
      generate(session, Sampler(args.sampler), args.max_tokens, [&](int64_t token) {
        if (ends(token)) return false;
        show(stream.push(text_of(*text.tokenizer, token)));
        return !stream.stopped() && !interrupt.asked();
      });
  show(stream.finish());
  if (isatty(STDOUT_FILENO)) show("\n");
  return count;
}

int64_t write_tokens(const Arguments& args, const Interrupt& interrupt, Session& session) {
  const char* separator = "";
  const int64_t count =
      generate(session, Sampler(args.sampler), args.max_tokens, [&](int64_t token) {
        show(fmt::format("{}{}", separator, token));
        separator = " ";
        return !interrupt.asked();
      });
  show("\n");
  return count;
}

void report(const Pace& prompt, const Pace& text, const Session& session) {
  fmt::print(stderr,
             "prompt: {} tokens, {:.0f} tokens/s; text: {} tokens, {:.0f} tokens/s; state: {} "
             "bytes at position {}\n",
             prompt.tokens, prompt.per_second(), text.tokens, text.per_second(),
             session.state_bytes(), session.position());
}

void run_generate(const Arguments& args) {
  std::vector<int64_t> tokens = parse_tokens(args.prompt_tokens.value_or(""));
  if (!args.save_state.empty()) check_writable(args.save_state);
  const std::string prompt =
      args.prompt_file ? open_input(*args.prompt_file).read_all() : args.prompt.value_or("");
  Device device(args.device, args.threads);
  const auto model =
      load_model(device, args.model, compute_dtype(args.dtype), WeightMemory::mapped);
  ModelText text;
  if (!args.prompt_tokens) {
    text = open_text(args, model->config().vocab_size);
    tokens = encode_prompt(*text.tokenizer, prompt, args.load_state.empty());
  }
  ELAPSE_CHECK(!tokens.empty() || !args.load_state.empty() || args.max_tokens == 0,
               "the prompt is empty: there is nothing to continue");
  Session session =
      args.load_state.empty() ? Session(*model) : Session::load(args.load_state, *model);
  ELAPSE_CHECK(!tokens.empty() || session.has_logits() || args.max_tokens == 0,
               "{}: it was saved without logits, so a prompt is needed to go on from it: expected "
               "at least one token, found none",
               args.load_state);
  const Interrupt interrupt;
  const Pace read = time([&] {
    session.prefill(tokens);
    return static_cast<int64_t>(tokens.size());
  });
  const Pace written = time([&] {
    return args.prompt_tokens ? write_tokens(args, interrupt, session)
                              : write_text(args, text, interrupt, session);
  });
  if (!args.save_state.empty()) session.save(args.save_state);
  if (args.verbose) report(read, written, session);
  if (interrupt.asked() && written.tokens < args.max_tokens) {
    interrupt.end("interrupted after {} of {} tokens{}", written.tokens, args.max_tokens,
                  args.save_state.empty() ? "" : ", and the state of these is saved");
  }
}

void add_prompt_options(CLI::App& verb, Arguments& args) {
  auto* prompt = verb.add_option("-p,--prompt", args.prompt, "Text to continue");
  auto* file =
      verb.add_option("-f,--file", args.prompt_file, "File with the text; -: standard input")
          ->check(not_empty());
  auto* tokens = verb.add_option("--prompt-tokens", args.prompt_tokens,
                                 "Token numbers to continue, as 3,1,4; prints numbers as well");
  prompt->excludes(file)->excludes(tokens);
  file->excludes(tokens);
  verb.add_option("--tokenizer", args.tokenizer,
                  "A tokenizer.json or a folder with one, in place of the model's own")
      ->check(not_empty())
      ->excludes(tokens)
      ->default_str("");
  verb.add_flag("--ignore-eos", args.ignore_eos, "Go on after an end-of-text token")
      ->excludes(tokens);
  verb.add_option("--stop", args.stops, "Ends the text before this string; repeatable")
      ->excludes(tokens)
      ->allow_extra_args(false)
      ->default_str("");
}

void add_sampler_options(CLI::App& verb, SamplerOptions& sampler) {
  verb.add_option("--temp", sampler.temperature, "Temperature; 0: the likeliest token, always");
  verb.add_option("--top-k", sampler.top_k, "Keep the k likeliest tokens; 0: all")
      ->check(whole_number(0));
  verb.add_option("--top-p", sampler.top_p,
                  "Keep the likeliest that reach this probability; 1: all");
  verb.add_option("--min-p", sampler.min_p,
                  "Keep those at least this likely, relative to the likeliest; 0: all");
  verb.add_option("-s,--seed", sampler.seed, "The same seed gives the same text")->check(seed());
}

void add_state_options(CLI::App& verb, Arguments& args) {
  verb.add_option("--save-state", args.save_state,
                  "Write the model's whole memory here at the end, after Ctrl-C too")
      ->check(not_empty());
  verb.add_option("--load-state", args.load_state, "Go on from a saved memory, as if never stopped")
      ->check(not_empty());
}

void check_usage(const CLI::App& verb, const Arguments& args) {
  if (!args.prompt && !args.prompt_file && !args.prompt_tokens && args.load_state.empty()) {
    throw CLI::RequiredError("--prompt, --file, --prompt-tokens or --load-state");
  }
  try {
    Sampler checked(args.sampler);
  } catch (const Error& error) {
    fail_usage(verb, error,
               {{"temperature", "--temp"},
                {"top_k", "--top-k"},
                {"top_p", "--top-p"},
                {"min_p", "--min-p"}});
  }
  // A state may be replaced by the one it has become.
  const std::string prompt = args.prompt_file.value_or("-");
  check_replaces_none({"--save-state", args.save_state}, {{"--file", prompt == "-" ? "" : prompt},
                                                          {"--tokenizer", args.tokenizer},
                                                          {"--model", args.model}});
}

}  // namespace

void add_generate_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("generate", "Continue a text with a model");
  verb->option_defaults()->always_capture_default();
  verb->footer(kFooter);
  const auto args = std::make_shared<Arguments>();
  verb->add_option("-m,--model", args->model, "Folder of the model")
      ->required()
      ->check(not_empty());
  add_prompt_options(*verb, *args);
  verb->add_option("-n,--max-tokens", args->max_tokens, "Tokens to make at most")
      ->check(whole_number(0));
  add_sampler_options(*verb, args->sampler);
  add_state_options(*verb, *args);
  verb->add_option("--device", args->device, "What computes");
  add_dtype_option(*verb, args->dtype);
  verb->add_option("--threads", args->threads, "Threads; 0: one a processor")
      ->check(whole_number(0, 1024));
  verb->add_flag("-v,--verbose", args->verbose, "Speed and size on standard error at the end");
  verb->callback([args, verb] {
    check_usage(*verb, *args);
    run_generate(*args);
  });
}

}  // namespace elapse
