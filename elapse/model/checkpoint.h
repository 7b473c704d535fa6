// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "elapse/io/named_tensor.h"
#include "elapse/model/language_model.h"

namespace elapse {

// Where a loaded model's weights lie.
enum class WeightMemory {
  owned,   // in memory of the model's own
  mapped,  // in the mapped file, as far as dtype and device allow: read as they are touched, shared
           // with other processes, and not to be written to, so that the model cannot be trained
  trained,  // owned, and all in the dtype the model computes in (in bf16: f32), so that it can be
            // trained
};

// Loads what open_checkpoint opens (elapse/model/checkpoint_files.h), throwing what it throws. The
// model computes in `dtype`. In float32 matrices of f16 and bf16 stay as they are, in bf16 all are
// rounded to that, unless the model is to be trained; all else is converted. Activations have
// gradients; so do parameters, unless they are mapped or any is of 16 bits.
std::unique_ptr<LanguageModel> load_model(Device& device, const std::string& directory, DType dtype,
                                          WeightMemory memory = WeightMemory::owned);

// Writes DIR/config.json and DIR/model.safetensors in the layout of the model's configuration,
// each atomically, making DIR if there is none.
void save_model(const LanguageModel& model, const std::string& directory);

// Sets every parameter from `tensors`, named as in the original layout. `source` opens errors.
void set_parameters(const LanguageModel& model, const std::vector<NamedTensor>& tensors,
                    const std::string& source);

// The parameters on the host, as files name them in the original layout.
std::vector<NamedTensor> host_parameters(const LanguageModel& model);

// Throws Error naming the file and the tensor unless it has this dtype and shape.
void check_tensor(const std::string& path, std::string_view name, const Tensor& found, DType dtype,
                  Shape shape);

// A tensor's elements on the host, sharing its memory where it is there already.
Tensor to_host(Device& device, const Tensor& t);

}  // namespace elapse
