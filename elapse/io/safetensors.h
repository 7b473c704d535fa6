// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/io/named_tensor.h"

namespace elapse {

// A file of named tensors in the safetensors format (huggingface/safetensors, README.md): the
// header's length (8 bytes, little-endian), the header (JSON), the elements.
class SafeTensors {
 public:
  // Refuses whatever the reference implementation refuses, and dtypes and ranks that a Tensor does
  // not have; `name` opens the sentence. The tensors wrap `bytes`, which `owner` keeps alive (null:
  // the caller does) and which nobody may write to; those that lie misaligned are copied.
  static SafeTensors parse(std::span<const std::byte> bytes, std::string name,
                           std::shared_ptr<const void> owner = {});

  const std::vector<NamedTensor>& tensors() const { return tensors_; }  // as they lie in the file
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  const Tensor* find(std::string_view name) const;  // null where there is none
  const Tensor& at(std::string_view name) const;    // Error where there is none: the nearest names

 private:
  std::string name_;
  std::vector<NamedTensor> tensors_;
  std::map<std::string, size_t, std::less<>> index_;  // of tensors_
  std::map<std::string, std::string> metadata_;
};

SafeTensors open_safetensors(const std::string& path);

class FileWriter;

// A tensor to be written whose elements are made when their turn comes.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::function<void(FileWriter&)> write;  // all of its elements

  int64_t bytes() const { return shape.numel() * size_of(dtype); }
};

// Writes the tensors, atomically, one after another. They lie in the file by descending element
// size, then by name, as the reference implementation has it, so that all are aligned; equal input
// gives equal bytes.
void stream_safetensors(const std::string& path, std::vector<TensorToWrite> tensors,
                        const std::map<std::string, std::string>& metadata = {});

// The same for contiguous tensors in host memory.
void write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace elapse
