// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/state_file.h"

#include <algorithm>

#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

constexpr std::string_view kPositions = "positions";
constexpr std::string_view kLogits = "logits";
// Far past any text, and leaves room to count on.
constexpr int64_t kMaxPosition = int64_t{1} << 60;
constexpr const char *kKeys = "keys", *kValues = "values";
const std::string kModelKey = "elapse.model";

std::string part_name(size_t layer, const StatePart& part) {
  return fmt::format("layers.{}.{}", layer, part.name);
}

void check_owner(const std::string& path, const SafeTensors& file, const LanguageModel& model) {
  const auto owner = file.metadata().find(kModelKey);
  ELAPSE_CHECK(owner != file.metadata().end(),
               "{}: expected a saved state, found no \"{}\" in "
               "its metadata",
               path, kModelKey);
  const std::string fingerprint = model.fingerprint();
  ELAPSE_CHECK(owner->second == fingerprint,
               "{}: the state belongs to another model: expected {}, found {}", path, fingerprint,
               owner->second);
}

std::string memory_name(size_t layer, const char* half) {
  return fmt::format("layers.{}.{}", layer, half);
}

// The keys and values of all that is remembered after so many tokens of each slot.
void check_memory(const std::string& path, const SafeTensors& file, size_t layer,
                  const TokenMemory& memory, const std::vector<int64_t>& positions) {
  for (const char* half : {kKeys, kValues}) {
    const std::string name = memory_name(layer, half);
    const Tensor& tensor = file.at(name);
    int64_t rows = 0;
    for (const int64_t position : positions) {
      rows += memory.remembered(position);
      if (rows > tensor.numel()) break;  // more than there can be; the sum stays a number
    }
    check_tensor(path, name, tensor, memory.dtype(), {rows, memory.width()});
  }
}

// Every part is looked at before memory is taken for so many slots.
void check_parts(const std::string& path, const SafeTensors& file, const LanguageModel& model,
                 const std::vector<int64_t>& positions) {
  const auto slots = std::ssize(positions);
  const State one = model.make_state(1);
  for (size_t l = 0; l < one.layers().size(); ++l) {
    if (one.layers()[l].memory) {
      check_memory(path, file, l, *one.layers()[l].memory, positions);
    }
    for (const StatePart& part : one.layers()[l].parts) {
      Shape shape = part.pool.value().shape();
      shape.set(0, slots);
      const std::string name = part_name(l, part);
      check_tensor(path, name, file.at(name), part.pool.dtype(), shape);
    }
  }
}

// By slot.
std::vector<int64_t> read_positions(const std::string& path, const Tensor& tensor) {
  check_tensor(path, kPositions, tensor, DType::i64, {tensor.numel()});
  const auto* first = tensor.data<int64_t>();
  std::vector<int64_t> positions(first, first + tensor.numel());
  for (const int64_t position : positions) {
    ELAPSE_CHECK(position >= 0 && position <= kMaxPosition,
                 "{}: tensor \"{}\": expected 0 to {}, found {}", path, kPositions, kMaxPosition,
                 position);
  }
  return positions;
}

}  // namespace

void save_state(const std::string& path, const LanguageModel& model, const State& state,
                const Tensor& logits) {
  std::vector<NamedTensor> tensors;
  std::vector<int64_t> positions;
  for (int64_t slot = 0; slot < state.slots(); ++slot) positions.push_back(state.position(slot));
  for (size_t l = 0; l < state.layers().size(); ++l) {
    if (const auto& memory = state.layers()[l].memory) {
      for (int64_t slot = 0; slot < state.slots(); ++slot) {
        ELAPSE_CHECK(memory->length(slot) == state.position(slot),
                     "saving a state: layer {} remembers {} tokens of slot {}, which has taken {}",
                     l, memory->length(slot), slot, state.position(slot));
      }
      const KeyValueRows rows = memory->rows(model.device());
      tensors.push_back({memory_name(l, kKeys), to_host(model.device(), rows.k)});
      tensors.push_back({memory_name(l, kValues), to_host(model.device(), rows.v)});
    }
    for (const StatePart& part : state.layers()[l].parts) {
      tensors.push_back({part_name(l, part), to_host(model.device(), part.pool.value())});
    }
  }
  tensors.push_back(
      {std::string(kPositions), Tensor::wrap(positions.data(), DType::i64, {state.slots()})});
  if (logits) tensors.push_back({std::string(kLogits), logits});
  write_safetensors(path, tensors, {{kModelKey, model.fingerprint()}});
}

SavedState load_state_and_logits(const std::string& path, const LanguageModel& model) {
  const SafeTensors file = open_safetensors(path);
  check_owner(path, file, model);
  const std::vector<int64_t> positions = read_positions(path, file.at(kPositions));
  check_parts(path, file, model, positions);
  State state = model.make_state(std::ssize(positions));
  Device& device = model.device();
  const auto upload = [&](const std::string& name) {
    const Tensor& from = file.at(name);
    return device.upload_bytes(from.raw(), from.dtype(), from.shape());
  };
  for (size_t l = 0; l < state.layers().size(); ++l) {
    if (const auto& memory = state.layers()[l].memory) {
      memory->restore(device, positions,
                      {upload(memory_name(l, kKeys)), upload(memory_name(l, kValues))});
    }
    for (const StatePart& part : state.layers()[l].parts) {
      copy(device, {upload(part_name(l, part)), part.pool.value()});
    }
  }
  for (int64_t slot = 0; slot < state.slots(); ++slot) {
    state.set_position(slot, positions[static_cast<size_t>(slot)]);
  }
  const Tensor* logits = file.find(kLogits);
  return {std::move(state), logits ? *logits : Tensor()};
}

State load_state(const std::string& path, const LanguageModel& model) {
  return load_state_and_logits(path, model).state;
}

std::optional<StateSummary> summarize_state(const WeightFile& file) {
  const auto owner = file.metadata.find(kModelKey);
  if (owner == file.metadata.end()) return std::nullopt;
  const auto positions =
      std::find_if(file.tensors.begin(), file.tensors.end(),
                   [](const NamedTensor& tensor) { return tensor.name == kPositions; });
  ELAPSE_CHECK(positions != file.tensors.end(), "{}: expected a tensor \"{}\", found none",
               file.path, kPositions);
  return StateSummary{owner->second, read_positions(file.path, positions->tensor)};
}

}  // namespace elapse
