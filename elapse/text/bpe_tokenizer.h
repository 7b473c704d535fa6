// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <array>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "elapse/text/added_tokens.h"
#include "elapse/text/bpe.h"
#include "elapse/text/normalizer.h"
#include "elapse/text/pre_tokenizer.h"
#include "elapse/text/tokenizer.h"
#include "elapse/text/vocabulary.h"

namespace elapse {

// What makes a byte-level BPE tokenizer.
struct BpeDescription {
  Vocabulary vocabulary;           // added tokens too; bytes as byte_level_text writes them
  std::vector<Bpe::Merge> merges;  // in the order of their ranks
  bool ignore_merges = false;      // a piece that is itself a token is left whole
  std::vector<AddedToken> added;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::vector<int64_t> prefix;  // stands before a text
};

// Byte-level BPE as Hugging Face's tokenizers do it: added tokens are cut out, the rest is
// normalised and cut into pieces, and within each piece bytes are merged.
//
// Text need not be UTF-8. Bytes that belong to no character are neither normalised nor joined with
// what stands beside them, and come back as they were. A byte without a token (some files have none
// for the 13 bytes that are in no UTF-8 text) is read as U+FFFD.
class BpeTokenizer final : public Tokenizer {
 public:
  // `name` opens the error of a byte, which UTF-8 text may have, without a token.
  BpeTokenizer(BpeDescription description, const std::string& name);
  ~BpeTokenizer() override;

  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }
  std::vector<int64_t> encode(std::string_view text) const override;
  std::string decode(int64_t token) const override;
  std::optional<int64_t> added_token(std::string_view content) const override;
  std::vector<int64_t> prefix() const override { return prefix_; }

 private:
  struct Encoder;  // what encode() works with, kept from call to call
  class LentEncoder;

  void set_byte_tokens(const std::string& name);
  void set_added(std::vector<AddedToken> added);

  void encode_characters(Encoder& encoder, std::string_view text) const;
  void encode_normalized(Encoder& encoder, std::string_view text) const;
  void encode_piece(Encoder& encoder, std::string_view piece) const;
  // The tokens of the piece go to encoder.row.
  void merge_piece(Encoder& encoder, std::string_view piece) const;

  Vocabulary vocabulary_;
  std::vector<std::string> bytes_;          // by token
  std::array<int32_t, 256> byte_tokens_{};  // kNoToken where there is none
  Bpe bpe_;
  bool ignore_merges_;
  std::unordered_map<std::string, int64_t> added_;  // by content
  AddedTokens as_written_, as_normalized_;  // those looked for before and after normalisation
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  std::vector<int64_t> prefix_;

  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Encoder>> idle_;  // guarded by mutex_
};

}  // namespace elapse
