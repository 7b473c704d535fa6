// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/token_memory.h"

#include <algorithm>
#include <cstring>
#include <set>

#include "elapse/ops/pointwise.h"

namespace elapse {

TokenMemory::TokenMemory(DType dtype, int64_t width, int64_t window, int64_t slots, bool needs_grad)
    : dtype_(dtype),
      width_(width),
      window_(window),
      needs_grad_(needs_grad),
      chains_(static_cast<size_t>(slots)) {}

int64_t TokenMemory::remembered(int64_t length) const {
  return window_ == 0 ? length : std::min(length, window_ - 1);
}

// The number of the first page that is held, counted from the first token.
int64_t TokenMemory::first_page(const Chain& chain) {
  return (chain.length + kPageTokens - 1) / kPageTokens - std::ssize(chain.pages);
}

std::vector<PastPage> TokenMemory::past(int64_t slot) const {
  const Chain& c = chain(slot);
  const int64_t begin = c.length - remembered(c.length), first = first_page(c);
  std::vector<PastPage> list;
  for (int64_t i = 0; i < std::ssize(c.pages); ++i) {
    const int64_t start = (first + i) * kPageTokens;
    const int64_t from = std::max(begin - start, int64_t{0});
    const int64_t to = std::min(c.length - start, kPageTokens);
    if (from < to) list.push_back({c.pages[static_cast<size_t>(i)]->rows, from, to});
  }
  return list;
}

// Zeros: forks copy whole pages.
std::shared_ptr<TokenMemory::Page> TokenMemory::new_page(Device& device) const {
  return std::make_shared<Page>(
      Page{Var(device.zeros(dtype_, {2, kPageTokens, width_}), needs_grad_)});
}

std::shared_ptr<TokenMemory::Page> TokenMemory::own_copy(Tape& tape, const Page& page,
                                                         int64_t rows) const {
  std::shared_ptr<Page> copy = new_page(tape.device());
  copy_page(tape, page.rows, rows, copy->rows);
  return copy;
}

// Where the next row goes, which nobody else sees: the last page, a copy of it or a new one.
std::shared_ptr<TokenMemory::Page> TokenMemory::writable_page(Tape& tape,
                                                              const Chain& chain) const {
  const int64_t used = chain.length % kPageTokens;
  if (used == 0) return new_page(tape.device());
  const std::shared_ptr<Page>& last = chain.pages.back();
  if (last.use_count() == 1 && last->rows.needs_grad() == needs_grad_) return last;
  return own_copy(tape, *last, used);
}

void TokenMemory::drop_unseen(Chain& chain) const {
  const int64_t begin = chain.length - remembered(chain.length);
  const int64_t unseen = std::min(begin / kPageTokens - first_page(chain), std::ssize(chain.pages));
  if (unseen > 0) chain.pages.erase(chain.pages.begin(), chain.pages.begin() + unseen);
}

void TokenMemory::append(Tape& tape, int64_t from, int64_t to, const Var& k, const Var& v,
                         int64_t begin, int64_t end) {
  Chain& c = chains_[static_cast<size_t>(to)];
  if (from != to) c = from == Sequences::kNoSlot ? Chain() : chain(from);
  while (begin < end) {
    const int64_t row = c.length % kPageTokens;
    const int64_t count = std::min(end - begin, kPageTokens - row);
    // It joins the others once it is written: what may throw stands before.
    std::shared_ptr<Page> page = writable_page(tape, c);
    write_to_page(tape, k, v, begin, begin + count, page->rows, row);
    if (row == 0) c.pages.push_back(std::move(page));
    else c.pages.back() = std::move(page);
    c.length += count;
    begin += count;
    drop_unseen(c);
  }
}

void TokenMemory::adopt(Device& device, int64_t to, const TokenMemory& other, int64_t from) {
  Chain next;
  if (from != Sequences::kNoSlot) next = other.chain(from);
  const int64_t used = next.length % kPageTokens;
  Tape tape(device, false);
  for (std::shared_ptr<Page>& page : next.pages) {
    if (needs_grad_ || !page->rows.needs_grad()) continue;
    // Both go on writing to the last page; a full one stays as it is.
    const bool is_written = used > 0 && page == next.pages.back();
    page = is_written ? own_copy(tape, *page, used)
                      : std::make_shared<Page>(Page{Var(page->rows.value())});
  }
  chains_[static_cast<size_t>(to)] = std::move(next);
}

TokenMemory TokenMemory::fork(Device& device, const std::vector<int64_t>& slots) const {
  TokenMemory forked(dtype_, width_, window_, std::ssize(slots), needs_grad_);
  Tape tape(device, false);
  for (size_t i = 0; i < slots.size(); ++i) {
    forked.chains_[i] = chain(slots[i]);
    // A gradient belongs to one state.
    for (std::shared_ptr<Page>& page : forked.chains_[i].pages) {
      if (needs_grad_) page = own_copy(tape, *page, kPageTokens);
    }
  }
  return forked;
}

KeyValueRows TokenMemory::rows(Device& device) const {
  int64_t count = 0;
  for (const Chain& c : chains_) count += remembered(c.length);
  const KeyValueRows all = {device.empty(dtype_, {count, width_}),
                            device.empty(dtype_, {count, width_})};
  int64_t row = 0;
  for (int64_t slot = 0; slot < slots(); ++slot) {
    for (const PastPage& page : past(slot)) {
      const KeyValueRows from = rows_of_page(page.rows.value(), page.begin, page.end);
      const int64_t end = row + page.end - page.begin;
      copy(device, {from.k, all.k.rows(row, end)});
      copy(device, {from.v, all.v.rows(row, end)});
      row = end;
    }
  }
  return all;
}

void TokenMemory::restore(Device& device, const std::vector<int64_t>& lengths,
                          const KeyValueRows& rows) {
  Tape tape(device, false);
  const Var k(rows.k), v(rows.v);
  int64_t row = 0;
  for (size_t slot = 0; slot < lengths.size(); ++slot) {
    Chain& c = chains_[slot];
    const int64_t end = lengths[slot], begin = end - remembered(end);
    c = {};
    for (int64_t start = begin / kPageTokens * kPageTokens; start < end; start += kPageTokens) {
      c.pages.push_back(new_page(device));
      const int64_t from = std::max(begin, start), to = std::min(end, start + kPageTokens);
      write_to_page(tape, k, v, row, row + to - from, c.pages.back()->rows, from - start);
      row += to - from;
    }
    c.length = end;
  }
}

void TokenMemory::reset() { std::fill(chains_.begin(), chains_.end(), Chain()); }

bool TokenMemory::same_bits(const TokenMemory& other) const {
  if (slots() != other.slots() || width_ != other.width_ || dtype_ != other.dtype_) return false;
  for (int64_t slot = 0; slot < slots(); ++slot) {
    const std::vector<PastPage> mine = past(slot), theirs = other.past(slot);
    if (length(slot) != other.length(slot) || mine.size() != theirs.size()) return false;
    for (size_t i = 0; i < mine.size(); ++i) {
      if (mine[i].begin != theirs[i].begin || mine[i].end != theirs[i].end) return false;
      const int64_t row = width_ * size_of(dtype_);
      for (const int64_t half : {int64_t{0}, kPageTokens}) {
        const int64_t offset = (half + mine[i].begin) * row;
        const auto count = static_cast<size_t>((mine[i].end - mine[i].begin) * row);
        const auto at = [&](const PastPage& p) {
          return static_cast<const char*>(p.rows.value().raw()) + offset;
        };
        if (std::memcmp(at(mine[i]), at(theirs[i]), count) != 0) return false;
      }
    }
  }
  return true;
}

int64_t TokenMemory::pages() const {
  std::set<const void*> different;
  for (const Chain& c : chains_) {
    for (const std::shared_ptr<Page>& page : c.pages) different.insert(page->rows.value().raw());
  }
  return std::ssize(different);
}

}  // namespace elapse
