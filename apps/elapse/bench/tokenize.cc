// SPDX-License-Identifier: Apache-2.0
// A byte-level BPE on a text made up to be like English in what matters: few words often and most
// seldom, the frequent ones a token each and the others several.
#include <chrono>
#include <cmath>
#include <unordered_map>

#include "apps/elapse/bench/benchmark.h"
#include "elapse/core/random.h"
#include "elapse/io/json_writer.h"
#include "elapse/text/byte_level.h"
#include "elapse/text/tokenizer_file.h"

namespace elapse::bench {
namespace {

constexpr size_t kTextBytes = size_t{1} << 20;
constexpr int64_t kWords = 40'000;
constexpr size_t kWholeWords = 12'000;
constexpr int kColdCalls = 5;

constexpr std::string_view kSyllables[] = {"an",  "be", "con", "de", "er",  "fi",   "go", "hal",
                                           "ing", "ja", "ki",  "lo", "men", "ni",   "or", "per",
                                           "qui", "re", "st",  "to", "un",  "tion", "wa", "y"};

std::vector<std::string> make_words() {
  Random random(1);
  std::vector<std::string> words;
  for (int64_t i = 0; i < kWords; ++i) {
    std::string word = " ";
    for (int64_t n = 1 + random.below(4); n > 0; --n) {
      word += kSyllables[random.below(std::size(kSyllables))];
    }
    words.push_back(std::move(word));
  }
  return words;
}

// By Zipf's law, the n-th word one n-th as often as the first, with what stands between words.
std::string make_text(const std::vector<std::string>& words) {
  Random random(2);
  std::string text;
  while (text.size() < kTextBytes) {
    const auto rank = std::pow(static_cast<double>(kWords), random.uniform()) - 1;
    text += words[static_cast<size_t>(rank)];
    const int64_t chance = random.below(100);
    if (chance < 8) text += chance < 4 ? "," : ".";
    if (chance == 8) text += fmt::format(" {}", random.below(3000));
    if (chance == 9) text += "\n\n";
  }
  return text;
}

// GPT-2's files of a vocabulary in which merges make the words byte by byte.
struct Files {
  std::string vocabulary, merges;

  std::unique_ptr<Tokenizer> open() const {
    return parse_gpt2_files({vocabulary, "vocabulary"}, {merges, "merges"});
  }
};

Files make_files(const std::vector<std::string>& words) {
  Files files;
  JsonWriter json(JsonWriter::Style::one_line);
  std::unordered_map<std::string, int64_t> ids;
  const auto add = [&](const std::string& token) {
    const bool added = ids.emplace(token, ids.size()).second;
    if (added) json.field(token, ids.size() - 1);
    return added;
  };
  json.begin_object();
  for (int byte = 0; byte < 256; ++byte)
    add(byte_level_text(std::string(1, static_cast<char>(byte))));
  for (size_t i = 0; i < kWholeWords; ++i) {
    for (size_t length = 2; length <= words[i].size(); ++length) {
      const std::string left = byte_level_text(words[i].substr(0, length - 1));
      const std::string right = words[i].substr(length - 1, 1);
      if (add(left + right)) files.merges += fmt::format("{} {}\n", left, right);
    }
  }
  files.vocabulary = json.end_object().text();
  return files;
}

// The least of calls with tokenizers that have seen no text yet.
double cold_seconds(const Files& files, const std::string& text) {
  double least = INFINITY;
  for (int call = 0; call < kColdCalls; ++call) {
    const auto tokenizer = files.open();
    const auto start = std::chrono::steady_clock::now();
    tokenizer->encode(text);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    least = std::min(least, taken.count());
  }
  return least;
}

std::vector<Row> time_encoding(Context&, const Benchmark&) {
  const std::vector<std::string> words = make_words();
  const std::string text = make_text(words);
  const Files files = make_files(words);
  const auto tokenizer = files.open();
  const double warm = least_seconds({[&] { tokenizer->encode(text); }})[0];
  const double cold = cold_seconds(files, text);
  const Measure rate{Measure::Kind::rate, "MB/s", static_cast<double>(text.size()) * 1e-6};
  return {make_row("tokenize.encode", rate, warm, NAN, 1),
          make_row("tokenize.encode.cold", rate, cold, NAN, 1)};
}

constexpr Benchmark kBenchmarks[] = {
    {"tokenize.encode", "1 MiB of made-up text, one thread: again, and by a new tokenizer (cold)",
     "not known", time_encoding},
};

}  // namespace

std::span<const Benchmark> tokenize_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
