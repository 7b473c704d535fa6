// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/state_file.h"

#include "elapse/io/safetensors.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

constexpr std::string_view kPositions = "positions";
const std::string kModelKey = "elapse.model";

std::string part_name(size_t layer, const StatePart& part) {
  return fmt::format("layers.{}.{}", layer, part.name);
}

void check_tensor(const std::string& path, std::string_view name, const Tensor& found,
                  DType dtype, Shape shape) {
  ELAPSE_CHECK(found.dtype() == dtype && found.shape() == shape,
               "{}: tensor \"{}\": expected {} {}, found {} {}", path, name, name_of(dtype),
               shape.str(), name_of(found.dtype()), found.shape().str());
}

}  // namespace

void save_state(const std::string& path, const LanguageModel& model, const State& state) {
  std::vector<NamedTensor> tensors;
  for (size_t l = 0; l < state.layers().size(); ++l) {
    for (const StatePart& part : state.layers()[l].parts) {
      tensors.push_back({part_name(l, part), to_host(model.device(), part.pool.value())});
    }
  }
  std::vector<int64_t> positions;
  for (int64_t slot = 0; slot < state.slots(); ++slot) positions.push_back(state.position(slot));
  tensors.push_back(
      {std::string(kPositions), Tensor::wrap(positions.data(), DType::i64, {state.slots()})});
  write_safetensors(path, tensors, {{kModelKey, model.fingerprint()}});
}

State load_state(const std::string& path, const LanguageModel& model) {
  const SafeTensors file = open_safetensors(path);
  const auto owner = file.metadata().find(kModelKey);
  ELAPSE_CHECK(owner != file.metadata().end(), "{}: expected a saved state, found no \"{}\" in "
               "its metadata", path, kModelKey);
  const std::string fingerprint = model.fingerprint();
  ELAPSE_CHECK(owner->second == fingerprint,
               "{}: the state belongs to another model: expected {}, found {}", path, fingerprint,
               owner->second);
  const Tensor& positions = file.at(kPositions);
  check_tensor(path, kPositions, positions, DType::i64, {positions.numel()});
  State state = model.make_state(positions.numel());
  for (size_t l = 0; l < state.layers().size(); ++l) {
    for (const StatePart& part : state.layers()[l].parts) {
      const std::string name = part_name(l, part);
      const Tensor& from = file.at(name);
      const Tensor& into = part.pool.value();
      check_tensor(path, name, from, into.dtype(), into.shape());
      copy(model.device(), {model.device().upload_bytes(from.raw(), from.dtype(), from.shape()),
                            into});
    }
  }
  for (int64_t slot = 0; slot < state.slots(); ++slot) {
    const int64_t position = positions.data<int64_t>()[slot];
    ELAPSE_CHECK(position >= 0, "{}: tensor \"{}\": position {} is negative", path, kPositions,
                 position);
    state.set_position(slot, position);
  }
  return state;
}

}  // namespace elapse
