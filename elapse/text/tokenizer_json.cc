// SPDX-License-Identifier: Apache-2.0
// What tokenizer.json and vocab.json with merges.txt say, told to a BpeTokenizer. A setting that
// would change the tokens and is not known is refused; of those that cannot, the names are here.
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>

#include "elapse/core/error.h"
#include "elapse/io/json.h"
#include "elapse/io/messages.h"
#include "elapse/text/bpe_tokenizer.h"
#include "elapse/text/tokenizer_file.h"

namespace elapse {
namespace {

using Names = std::initializer_list<std::string_view>;

// GPT-2's (encoder.py): what ByteLevel means unless told otherwise.
constexpr std::string_view kGpt2Split =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kPunctuation = R"([\p{P}$+<=>\^`|~])";  // ASCII's symbols as well

bool is_one_of(std::string_view name, Names names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void expect_fields(const Json& object, Names known) {
  for (const std::string& key : object.keys()) {
    ELAPSE_CHECK(is_one_of(key, known), "{}: expected no fields but {}, found {}", object.where(),
                 fmt::join(known, ", "), quote(key));
  }
}

void expect_absent(const Json& object, Names keys) {
  for (const auto key : keys) {
    if (object.has(key)) fail("{}: expected null, found a value", object.at(key).where());
  }
}

void expect_text(const Json& object, std::string_view key, Names known) {
  const std::string found = object.text(key);
  ELAPSE_CHECK(is_one_of(found, known), "{}: expected {}, found {}", object.at(key).where(),
               fmt::join(known, ", "), quote(found));
}

void expect_empty(const Json& object, std::string_view key) {
  if (object.has(key)) expect_text(object, key, {""});
}

// The steps of a Sequence, one after another, or the one step; none where `json` has no `key`.
std::vector<Json> steps_of(const Json& json, std::string_view key, std::string_view of_sequence) {
  if (!json.has(key)) return {};
  const Json step = json.at(key);
  if (step.text("type") != "Sequence") return {step};
  expect_fields(step, {"type", of_sequence});
  return step.at(of_sequence).items();
}

Normalizer parse_normalizer(const Json& json) {
  Normalizer normalizer;
  for (const Json& step : steps_of(json, "normalizer", "normalizers")) {
    expect_text(step, "type", {"NFC", "Prepend"});
    if (step.text("type") == "NFC") {
      expect_fields(step, {"type"});
      normalizer.add_nfc();
    } else {
      expect_fields(step, {"type", "prepend"});
      normalizer.add_prepend(step.text("prepend"));
    }
  }
  return normalizer;
}

class PreTokenizerParser {
 public:
  explicit PreTokenizerParser(const Json& json) {
    for (const Json& step : steps_of(json, "pre_tokenizer", "pretokenizers")) parse(step);
    ELAPSE_CHECK(in_bytes_,
                 "{}: field \"pre_tokenizer\": expected a step ByteLevel (tokenizers that are not "
                 "byte-level are not known), found none",
                 json.where());
  }

  PreTokenizer take() { return std::move(result_); }

 private:
  void parse(const Json& step) {
    expect_text(step, "type", {"ByteLevel", "Split", "Digits", "Punctuation"});
    const std::string type = step.text("type");
    if (type == "ByteLevel") return parse_byte_level(step);
    if (type == "Split") return parse_split(step);
    return type == "Digits" ? parse_digits(step) : parse_punctuation(step);
  }

  void parse_byte_level(const Json& step) {
    expect_fields(step, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    ELAPSE_CHECK(!in_bytes_, "{}: expected one step ByteLevel, found another", step.where());
    if (step.boolean("add_prefix_space")) result_.add_prefix_space();
    if (step.boolean("use_regex", true)) add(kGpt2Split, step);
    in_bytes_ = true;
  }

  // What matches is a piece, and so is what does not, whichever of them `invert` calls which.
  void parse_split(const Json& step) {
    expect_fields(step, {"type", "pattern", "behavior", "invert"});
    expect_text(step, "behavior", {"Isolated"});
    expect_fields(step.at("pattern"), {"Regex"});
    add(step.at("pattern").text("Regex"), step.at("pattern"));
  }

  void parse_digits(const Json& step) {
    expect_fields(step, {"type", "individual_digits"});
    add(step.boolean("individual_digits") ? R"(\p{N})" : R"(\p{N}+)", step);
  }

  void parse_punctuation(const Json& step) {
    expect_fields(step, {"type", "behavior"});
    expect_text(step, "behavior", {"Isolated", "Contiguous"});
    const bool runs = step.text("behavior") == "Contiguous";
    add(std::string(kPunctuation) + (runs ? "+" : ""), step);
  }

  void add(std::string_view regex, const Json& from) {
    result_.add_pattern(Pattern(regex, from.where()), in_bytes_);
  }

  PreTokenizer result_;
  bool in_bytes_ = false;  // ByteLevel has been: what follows sees bytes as characters
};

// Adds what a file puts before a text to `result`; what it puts behind one, nobody asks for.
void parse_template(const Json& step, BpeDescription& result) {
  expect_fields(step, {"type", "single", "pair", "special_tokens"});
  bool behind = false;
  for (const Json& part : step.at("single").items()) {
    expect_fields(part, {"SpecialToken", "Sequence"});
    if (part.has("Sequence")) {
      ELAPSE_CHECK(!behind, "{}: expected one Sequence, found another", part.where());
      behind = true;
      continue;
    }
    const Json special = step.at("special_tokens").at(part.at("SpecialToken").text("id"));
    for (const Json& id : special.at("ids").items()) {
      ELAPSE_CHECK(result.vocabulary.has(id.integer()), "{}: expected a token's number, found {}",
                   id.where(), id.integer());
      if (!behind) result.prefix.push_back(id.integer());
    }
  }
}

void parse_post_processor(const Json& json, BpeDescription& result) {
  for (const Json& step : steps_of(json, "post_processor", "processors")) {
    expect_text(step, "type", {"ByteLevel", "TemplateProcessing"});
    if (step.text("type") == "TemplateProcessing") parse_template(step, result);
  }
}

void parse_vocabulary(const Json& members, Vocabulary& vocabulary) {
  for (const auto& [token, id] : members.members()) {
    vocabulary.add(token, id.integer(), [&id = id] { return id.where(); });
  }
}

// The merge of two tokens to a third, all of them in the vocabulary.
Bpe::Merge merge_of(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
                    const std::function<std::string()>& where) {
  const auto id_of = [&](std::string_view token) {
    const auto id = vocabulary.find(token);
    if (!id) fail("{}: expected a token of the vocabulary, found {}", where(), quote(token));
    return *id;
  };
  return {id_of(left), id_of(right), id_of(std::string(left) + std::string(right))};
}

// "left right"
Bpe::Merge merge_of(const Vocabulary& vocabulary, std::string_view line,
                    const std::function<std::string()>& where) {
  const size_t space = line.find(' ');
  const bool two = space != line.npos && line.find(' ', space + 1) == line.npos;
  if (!two) fail("{}: expected two tokens with a space between, found {}", where(), quote(line));
  return merge_of(vocabulary, line.substr(0, space), line.substr(space + 1), where);
}

Bpe::Merge parse_merge(const Json& merge, const Vocabulary& vocabulary) {
  const auto where = [&] { return merge.where(); };
  if (merge.is_text()) return merge_of(vocabulary, merge.text(), where);
  const std::vector<Json> pair = merge.items();
  if (pair.size() != 2) fail("{}: expected two tokens, found {}", where(), pair.size());
  return merge_of(vocabulary, pair[0].text(), pair[1].text(), where);
}

// unk_token and fuse_unk are for what has no token; every byte of UTF-8 text must have one.
void parse_model(const Json& model, BpeDescription& result) {
  if (model.has("type")) expect_text(model, "type", {"BPE"});  // GPT-2's own file has none
  expect_fields(model,
                {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                 "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  expect_absent(model, {"dropout"});
  expect_empty(model, "continuing_subword_prefix");
  expect_empty(model, "end_of_word_suffix");
  ELAPSE_CHECK(!model.boolean("byte_fallback", false), "{}: expected false, found true",
               model.at("byte_fallback").where());
  result.ignore_merges = model.boolean("ignore_merges", false);
  parse_vocabulary(model.at("vocab"), result.vocabulary);
  for (const Json& merge : model.at("merges").items()) {
    result.merges.push_back(parse_merge(merge, result.vocabulary));
  }
}

AddedToken parse_added_token(const Json& json) {
  constexpr size_t kLongest = 1024;  // bytes; looking for one takes as long at every place
  expect_fields(json,
                {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  AddedToken token;
  token.id = json.integer("id");
  token.content = json.text("content");
  token.single_word = json.boolean("single_word", false);
  token.lstrip = json.boolean("lstrip", false);
  token.rstrip = json.boolean("rstrip", false);
  token.normalized = json.boolean("normalized", !json.boolean("special", false));
  ELAPSE_CHECK(!token.content.empty() && token.content.size() <= kLongest,
               "{}: expected 1 to {} bytes, found {}", json.at("content").where(), kLongest,
               token.content.size());
  return token;
}

void parse_added_tokens(const Json& json, BpeDescription& result) {
  if (!json.has("added_tokens")) return;
  for (const Json& item : json.at("added_tokens").items()) {
    AddedToken token = parse_added_token(item);
    result.vocabulary.add(token.content, token.id, [&] { return item.where(); });
    result.added.push_back(std::move(token));
  }
}

void parse_merges_file(const NamedText& file, BpeDescription& result) {
  size_t number = 0;
  for (std::string_view rest = file.text; !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    result.merges.push_back(merge_of(
        result.vocabulary, line, [&] { return fmt::format("{}: line {}", file.name, number); }));
  }
}

}  // namespace

std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name) {
  const Json json = Json::parse(text, name);
  expect_fields(json, {"version", "truncation", "padding", "added_tokens", "normalizer",
                       "pre_tokenizer", "post_processor", "decoder", "model"});
  expect_absent(json, {"truncation", "padding"});
  expect_text(json.at("decoder"), "type", {"ByteLevel"});
  BpeDescription result;
  parse_model(json.at("model"), result);
  parse_added_tokens(json, result);
  result.normalizer = parse_normalizer(json);
  result.pre_tokenizer = PreTokenizerParser(json).take();
  parse_post_processor(json, result);
  return std::make_unique<BpeTokenizer>(std::move(result), name);
}

std::unique_ptr<Tokenizer> parse_gpt2_files(const NamedText& vocabulary, const NamedText& merges) {
  constexpr std::string_view kEndOfText = "<|endoftext|>";
  BpeDescription result;
  parse_vocabulary(Json::parse(vocabulary.text, vocabulary.name), result.vocabulary);
  parse_merges_file(merges, result);
  const auto end = result.vocabulary.find(kEndOfText);
  if (end) result.added.push_back({.content = std::string(kEndOfText), .id = *end});
  result.pre_tokenizer.add_pattern(Pattern(kGpt2Split, "GPT-2's expression"), false);
  return std::make_unique<BpeTokenizer>(std::move(result), vocabulary.name);
}

}  // namespace elapse
