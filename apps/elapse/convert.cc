// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/convert.h"

#include <CLI/App.hpp>
#include <memory>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/progress.h"
#include "apps/elapse/quantities.h"
#include "apps/elapse/verbs.h"

namespace elapse {
namespace {

int64_t megabytes(int64_t bytes) { return (bytes + 999'999) / 1'000'000; }  // begun

struct Arguments {
  std::string from, to;
  std::string layout, dtype;
  int64_t max_shard_bytes = 5'000'000'000;
  bool force = false;
};

constexpr const char* kFooter =
    "Reads what `elapse info` shows: either published layout, safetensors or pytorch_model.bin, "
    "whole or in shards. Writes config.json in the layout's fields and safetensors in its names "
    "(never a pytorch_model.bin, in the original layout neither), and copies the files of a "
    "tokenizer that stand beside. A tied head is not written a second time.\n"
    "Every tensor takes the dtype asked for, A_log and D too, as in transformers; a value too "
    "large "
    "for it is an error. Until all is written TO stays as it was, after Ctrl-C and on a full disk "
    "too.\n\n"
    "Examples:\n"
    "  elapse convert mamba-130m mamba-130m-hf --layout transformers\n"
    "  elapse convert mamba-2.8b-hf small --dtype bf16 --max-shard-size 2GB";

Layout layout_of(const std::string& name) {
  return name == name_of(Layout::original) ? Layout::original : Layout::transformers;
}

DType dtype_of(const std::string& name) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    if (name == name_of(dtype)) return dtype;
  }
  return DType::f32;
}

ConvertOptions options_of(const Arguments& args) {
  ConvertOptions options;
  if (!args.layout.empty()) options.layout = layout_of(args.layout);
  if (!args.dtype.empty()) options.dtype = dtype_of(args.dtype);
  options.max_shard_bytes = args.max_shard_bytes;
  options.replace = args.force;
  return options;
}

void run_convert(const Arguments& args) {
  ConvertOptions options = options_of(args);
  const Interrupt interrupt;
  std::optional<Progress> progress;
  options.progress = [&](int64_t done, int64_t total) {
    if (interrupt.asked()) interrupt.end("{}: interrupted: it is as it was before", args.to);
    if (!progress) progress.emplace("MB", 0, megabytes(total));
    progress->update(megabytes(done), "written");
  };
  convert_checkpoint(args.from, args.to, options);
  progress.reset();
  const Checkpoint made = open_checkpoint(args.to);
  int64_t bytes = 0;
  for (const NamedTensor& t : made.tensors) bytes += t.tensor.bytes();
  fmt::print("{}: {} layout, {} in {} file{}\n", args.to, name_of(made.config.layout),
             bytes_text(bytes), made.files.size(), made.files.size() == 1 ? "" : "s");
}

}  // namespace

void add_convert_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("convert", "Write a checkpoint in another layout or dtype");
  verb->footer(kFooter);
  const auto args = std::make_shared<Arguments>();
  verb->add_option("FROM", args->from, "Folder of the checkpoint")->required()->check(not_empty());
  verb->add_option("TO", args->to, "Folder to write to")->required()->check(not_empty());
  verb->add_option("--layout", args->layout, "original or transformers; as it is where not given")
      ->check(CLI::IsMember({"original", "transformers"}));
  verb->add_option("--dtype", args->dtype, "f32, f16 or bf16; as each tensor is where not given")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  verb->add_option("--max-shard-size", args->max_shard_bytes,
                   "Largest file of weights, as 5GB or 200MB; more go into several, with an index")
      ->transform(byte_size())
      ->default_str("5GB");
  verb->add_flag("--force", args->force, "Replace a checkpoint that is in TO; never a run's");
  verb->callback([args] { run_convert(*args); });
}

}  // namespace elapse
