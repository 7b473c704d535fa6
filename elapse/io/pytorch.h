// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "elapse/io/named_tensor.h"

namespace elapse {

// The tensors of a state dict that torch.save (PyTorch 1.6 or newer) has written, in its order.
// Nothing in the file is run: it may build containers and tensors, and any other name in it is an
// error. Tensors wrap `bytes`, which `owner` keeps alive (null: the caller does) and which nobody
// may write to, and share storages as they did in PyTorch; strided ones become contiguous copies.
// `name` opens every error's sentence. Of the archive's checksums the pickle's is checked.
std::vector<NamedTensor> parse_pytorch(std::span<const std::byte> bytes, const std::string& name,
                                       std::shared_ptr<const void> owner = {});

std::vector<NamedTensor> open_pytorch(const std::string& path);

}  // namespace elapse
