// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <vector>

#include "elapse/autograd/attention.h"

namespace elapse {

// What attention remembers: for each slot a key and a value of every token so far, or of the last
// ones that a window still sees. It grows with the tokens, up to the window.
//
// Rows stand in pages of kPageTokens positions. Slots and forks share pages until one of them
// writes. Where gradients flow through a memory, they stand in its pages' Vars: the rows that a
// token wrote hand theirs, backward, to its key and value.
class TokenMemory {
 public:
  static constexpr int64_t kPageTokens = 64;

  // Keys and values have `width` numbers each. `window` (0: all positions) is what a query sees,
  // its own position included.
  TokenMemory(DType dtype, int64_t width, int64_t window, int64_t slots, bool needs_grad);

  int64_t slots() const { return std::ssize(chains_); }
  int64_t width() const { return width_; }
  DType dtype() const { return dtype_; }
  bool grows() const { return window_ == 0; }                        // without end
  int64_t length(int64_t slot) const { return chain(slot).length; }  // tokens so far
  // How many positions the token after `length` others may see before its own.
  int64_t remembered(int64_t length) const;
  // The pages that hold them, in order; of the first and last some rows.
  std::vector<PastPage> past(int64_t slot) const;

  // Tokens [begin, end) of k and v (tokens, width) after those of slot `from` (kNoSlot: none), into
  // slot `to`, which may be the same. Where it throws, `to` remembers those before the page that it
  // could not write.
  void append(Tape& tape, int64_t from, int64_t to, const Var& k, const Var& v, int64_t begin,
              int64_t end);
  // Slot `to` remembers what `other`'s slot `from` does (kNoSlot: nothing). Gradients flow from
  // here to there where both have them.
  void adopt(Device& device, int64_t to, const TokenMemory& other, int64_t from);
  // A memory of its own with these slots; repeats allowed.
  TokenMemory fork(Device& device, const std::vector<int64_t>& slots) const;
  void reset();

  // All that is remembered, slot after slot: (rows, width) each, contiguous.
  KeyValueRows rows(Device& device) const;
  // The other way, for slots after so many tokens each.
  void restore(Device& device, const std::vector<int64_t>& lengths, const KeyValueRows& rows);

  bool same_bits(const TokenMemory& other) const;  // host devices; of what is remembered
  int64_t pages(int64_t slot) const { return std::ssize(chain(slot).pages); }
  int64_t pages() const;  // different ones of all slots
  int64_t bytes_per_page() const { return 2 * kPageTokens * width_ * size_of(dtype_); }

 private:
  struct Page {
    Var rows;  // (2, kPageTokens, width): keys, values
  };
  struct Chain {
    int64_t length = 0;
    std::vector<std::shared_ptr<Page>> pages;  // the last holds the last position
  };

  const Chain& chain(int64_t slot) const { return chains_[static_cast<size_t>(slot)]; }
  static int64_t first_page(const Chain& chain);
  std::shared_ptr<Page> new_page(Device& device) const;
  std::shared_ptr<Page> own_copy(Tape& tape, const Page& page, int64_t rows) const;
  std::shared_ptr<Page> writable_page(Tape& tape, const Chain& chain) const;
  void drop_unseen(Chain& chain) const;

  DType dtype_;
  int64_t width_;
  int64_t window_;
  bool needs_grad_;
  std::vector<Chain> chains_;  // by slot
};

}  // namespace elapse
