// SPDX-License-Identifier: Apache-2.0
// Tokenizers from the files that published models come with.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "elapse/text/tokenizer.h"

namespace elapse {

// Hugging Face's tokenizer.json of a byte-level BPE (the families of GPT-2, GPT-NeoX, Llama-3 and
// Falcon). Whatever the file asks for and is not done here is an Error that names it. `name` opens
// the errors.
std::unique_ptr<Tokenizer> parse_tokenizer_json(std::string_view text, const std::string& name);

// A file as GPT-2's authors published it, and its name.
struct NamedText {
  std::string_view text;
  std::string name;
};
// vocab.json and merges.txt: split as GPT-2 does; <|endoftext|> is an added token if it is one.
std::unique_ptr<Tokenizer> parse_gpt2_files(const NamedText& vocabulary, const NamedText& merges);

// From a tokenizer.json, or a folder that holds one, or else vocab.json and merges.txt. Throws
// Error where there are none.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& path);

// The same of a folder, nullptr where none of these files is there.
std::unique_ptr<Tokenizer> find_tokenizer(const std::string& folder);

}  // namespace elapse
