// SPDX-License-Identifier: Apache-2.0
#include "elapse/mixers/state.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "elapse/ops/pointwise.h"

namespace elapse {
namespace {

Tensor fork_slots(Device& device, const Tensor& pool, const std::vector<int64_t>& slots) {
  Shape shape = pool.shape();
  shape.set(0, static_cast<int64_t>(slots.size()));
  const Tensor chosen = device.empty(pool.dtype(), shape);
  for (size_t i = 0; i < slots.size(); ++i) {
    const auto to = static_cast<int64_t>(i);
    copy(device, {pool.rows(slots[i], slots[i] + 1), chosen.rows(to, to + 1)});
  }
  return chosen;
}

bool same_bits_of(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0;
}

}  // namespace

const Var& LayerState::part(std::string_view name) const {
  for (const StatePart& p : parts) {
    if (p.name == name) return p.pool;
  }
  fail("the layer's state has no part \"{}\"", name);
}

State::State(Device& device, std::vector<LayerState> layers, int64_t slots)
    : device_(&device), layers_(std::move(layers)), positions_(static_cast<size_t>(slots), 0) {}

int64_t State::bytes_per_slot() const {
  int64_t bytes = 0;
  for (const LayerState& layer : layers_) {
    for (const StatePart& p : layer.parts) bytes += p.pool.value().bytes();
  }
  return slots() == 0 ? 0 : bytes / slots();
}

int64_t State::bytes(int64_t slot) const {
  int64_t bytes = bytes_per_slot();
  for (const LayerState& layer : layers_) {
    if (layer.memory) bytes += layer.memory->pages(slot) * layer.memory->bytes_per_page();
  }
  return bytes;
}

int64_t State::bytes_per_token() const {
  int64_t bytes = 0;
  for (const LayerState& layer : layers_) {
    if (layer.memory && layer.memory->grows()) {
      bytes += layer.memory->bytes_per_page() / TokenMemory::kPageTokens;
    }
  }
  return bytes;
}

State State::fork() const {
  std::vector<int64_t> every(positions_.size());
  std::iota(every.begin(), every.end(), 0);
  return fork(every);
}

State State::fork(const std::vector<int64_t>& slots) const {
  for (int64_t slot : slots) {
    ELAPSE_CHECK(slot >= 0 && slot < this->slots(), "fork: no slot {} among {}", slot,
                 this->slots());
  }
  std::vector<LayerState> layers;
  for (const LayerState& layer : layers_) {
    layers.emplace_back();
    if (layer.memory) {
      layers.back().memory = std::make_shared<TokenMemory>(layer.memory->fork(*device_, slots));
    }
    for (const StatePart& p : layer.parts) {
      layers.back().parts.push_back(
          {p.name, Var(fork_slots(*device_, p.pool.value(), slots), p.pool.needs_grad())});
    }
  }
  State forked(*device_, std::move(layers), static_cast<int64_t>(slots.size()));
  for (size_t i = 0; i < slots.size(); ++i) forked.positions_[i] = position(slots[i]);
  return forked;
}

void State::reset() {
  for (const LayerState& layer : layers_) {
    for (const StatePart& p : layer.parts) fill(*device_, {p.pool.value(), 0});
    if (layer.memory) layer.memory->reset();
  }
  std::fill(positions_.begin(), positions_.end(), 0);
}

bool State::same_bits(const State& other) const {
  if (positions_ != other.positions_ || layers_.size() != other.layers_.size()) return false;
  for (size_t l = 0; l < layers_.size(); ++l) {
    const auto& mine = layers_[l].parts;
    const auto& theirs = other.layers_[l].parts;
    if (mine.size() != theirs.size()) return false;
    for (size_t i = 0; i < mine.size(); ++i) {
      if (!same_bits_of(mine[i].pool.value(), theirs[i].pool.value())) return false;
    }
    const auto &memory = layers_[l].memory, &other_memory = other.layers_[l].memory;
    if (bool(memory) != bool(other_memory)) return false;
    if (memory && !memory->same_bits(*other_memory)) return false;
  }
  return true;
}

}  // namespace elapse
