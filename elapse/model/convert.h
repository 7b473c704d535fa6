// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "elapse/model/checkpoint_files.h"

namespace elapse {

struct ConvertOptions {
  std::optional<Layout> layout = {};        // none: as it is
  std::optional<DType> dtype = {};          // none: each tensor as it is
  int64_t max_shard_bytes = 5'000'000'000;  // transformers' long-standing default
  bool replace = false;  // of a checkpoint, whole or in part, in the folder written to
  std::function<void(int64_t done, int64_t total)> progress = [](int64_t, int64_t) {};  // bytes
};

// Writes the checkpoint in the folder `from` into the folder `to`: config.json, the weights as
// safetensors in the names of the layout asked for, whole or in shards with their index, and the
// files of a tokenizer and generation_config.json that stand beside, verbatim; the original
// layout's special tokens are in the latter. A tied head is not written a second time.
//
// Elements are converted in passing, a piece at a time. All is written into a folder of its own
// within `to` and renamed into place once whole, config.json last: whatever is thrown before (by
// `progress` too), `to` is as it was. `to` is locked meanwhile (FolderLock). Throws Error where
// `to` is `from`, where another process holds it, where it holds a training run, where it holds
// files of a checkpoint or a tokenizer already and `replace` is not set, where the layout cannot
// state the model, and where a weight is too large for the dtype, naming the tensor.
void convert_checkpoint(const std::string& from, const std::string& to,
                        const ConvertOptions& options);

}  // namespace elapse
