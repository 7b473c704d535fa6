// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/input.h"
#include "apps/elapse/output.h"
#include "apps/elapse/verbs.h"
#include "elapse/core/error.h"
#include "elapse/generate/model_text.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"
#include "elapse/io/utf8.h"
#include "elapse/model/config.h"
#include "elapse/text/tokenizer_file.h"

namespace elapse {
namespace {

struct Arguments {
  std::string tokenizer, model;
  std::optional<std::string> text;
  std::string file;
  bool pieces = false, count = false, json = false, verbose = false;
};

constexpr const char* kFooter =
    "Prints the numbers of the tokens that a text is to a model. Added tokens such as "
    "<|endoftext|> are matched where the text has them; none are put before it. In pieces, bytes "
    "that are no whole character and control characters are shown as \\xNN.\n\n"
    "Examples:\n"
    "  elapse tokenize --tokenizer tokenizer.json --text 'Hello world'\n"
    "  elapse tokenize --tokenizer tokenizer.json --text 'Hello world' --pieces\n"
    "  elapse tokenize -m mamba-130m --file book.txt --count --verbose\n"
    "  echo -n Hello | elapse tokenize -m mamba-130m --file - --json";

double seconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string text_of(const Arguments& args) {
  return args.text ? *args.text : open_input(args.file).read_all();
}

// The configuration of a model counts only where its folder has no tokenizer.
std::unique_ptr<Tokenizer> tokenizer_of(const Arguments& args) {
  if (!args.tokenizer.empty()) return open_tokenizer(args.tokenizer);
  if (auto found = find_tokenizer(args.model)) return found;
  const std::string path = args.model + "/config.json";
  const auto config = ModelConfig::parse(Json::parse(read_text(path), path));
  return open_model_text(args.model, config.vocab_size).tokenizer;
}

std::string visible(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const size_t length = utf8_character(piece);
    const auto byte = static_cast<unsigned char>(piece.front());
    if (length == 0 || byte < 0x20 || byte == 0x7F) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += piece.substr(0, length);
    }
    piece.remove_prefix(std::max<size_t>(1, length));
  }
  return text;
}

std::string json_of(const Arguments& args, const Tokenizer& tokenizer,
                    const std::vector<int64_t>& tokens) {
  JsonWriter json;
  json.begin_object().field("count", tokens.size());
  if (!args.count) json.field("ids", tokens);
  if (args.pieces) {
    json.key("pieces").begin_array();
    for (const int64_t token : tokens) json.value(visible(tokenizer.decode(token)));
    json.end_array();
  }
  return json.end_object().text();
}

std::string lines_of(const Arguments& args, const Tokenizer& tokenizer,
                     const std::vector<int64_t>& tokens) {
  if (args.count) return fmt::format("{}\n", tokens.size());
  if (!args.pieces) return fmt::format("{}\n", fmt::join(tokens, " "));
  std::string lines;
  for (const int64_t token : tokens) {
    lines += fmt::format("{:>7}  \"{}\"\n", token, visible(tokenizer.decode(token)));
  }
  return lines;
}

void run_tokenize(const Arguments& args) {
  std::unique_ptr<Tokenizer> tokenizer;
  const double opening = seconds_of([&] { tokenizer = tokenizer_of(args); });
  const std::string text = text_of(args);
  std::vector<int64_t> tokens;
  const double encoding = seconds_of([&] { tokens = tokenizer->encode(text); });
  show((args.json ? json_of : lines_of)(args, *tokenizer, tokens));
  if (!args.verbose) return;
  fmt::print(stderr, "tokenizer opened in {:.3f} s; {} bytes are {} tokens, at {:.1f} MB/s\n",
             opening, text.size(), tokens.size(),
             static_cast<double>(text.size()) * 1e-6 / std::max(encoding, 1e-9));
}

}  // namespace

void add_tokenize_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("tokenize", "Show the tokens that a text is to a model");
  verb->footer(kFooter);
  const auto args = std::make_shared<Arguments>();
  auto* source = verb->add_option_group("Tokenizer", "One of these");
  source
      ->add_option("--tokenizer", args->tokenizer,
                   "A tokenizer.json, or a folder with one or with vocab.json and merges.txt")
      ->check(not_empty());
  source->add_option("-m,--model", args->model, "Folder of a model, for its tokenizer")
      ->check(not_empty());
  source->require_option(1);
  auto* input = verb->add_option_group("Text", "One of these");
  input->add_option("--text", args->text, "The text itself");
  input->add_option("-f,--file", args->file, "File with the text; -: standard input")
      ->check(not_empty());
  input->require_option(1);
  auto* pieces = verb->add_flag("--pieces", args->pieces, "Print each token's number and bytes");
  auto* count = verb->add_flag("--count", args->count, "Print how many there are");
  pieces->excludes(count);
  verb->add_flag("--json", args->json, "Print a JSON object: count, ids, pieces");
  verb->add_flag("-v,--verbose", args->verbose, "Speed on standard error");
  verb->callback([args] { run_tokenize(*args); });
}

}  // namespace elapse
