// SPDX-License-Identifier: Apache-2.0
#include <CLI/App.hpp>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>

#include "apps/elapse/checks.h"
#include "apps/elapse/quantities.h"
#include "apps/elapse/verbs.h"
#include "elapse/io/file.h"
#include "elapse/io/json_writer.h"
#include "elapse/model/checkpoint_files.h"
#include "elapse/model/mixer_form.h"
#include "elapse/model/state_file.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  std::string path;
  bool tensors = false;
  bool json = false;
};

constexpr const char* kFooter =
    "PATH is a checkpoint's folder, one of its files of weights or their index, or a state that "
    "`elapse generate --save-state` saved. Files are mapped and no weights are read: a large "
    "checkpoint takes no longer than a small one. A folder is held to its config.json.\n\n"
    "Examples:\n"
    "  elapse info mamba-130m-hf\n"
    "  elapse info mamba-130m-hf --tensors --json | jq '.tensors[].name'\n"
    "  elapse info book.state";

// What there is to say about a folder or a file.
struct Contents {
  std::optional<ModelConfig> config;  // of a folder
  std::optional<StateSummary> state;  // of a saved one
  std::vector<WeightFile> files;
  std::vector<std::string> tokenizer;
  std::map<std::string_view, int64_t> elements;  // by dtype
  int64_t bytes = 0;

  int64_t parameters() const {
    int64_t count = 0;
    for (const auto& [dtype, n] : elements) count += n;
    return count;
  }
};

// A tied head's second copy is no parameter of its own.
bool is_tied_copy(const Contents& contents, const std::string& name) {
  return contents.config && contents.config->tied_head && name == "lm_head.weight";
}

void count_elements(Contents& contents) {
  for (const WeightFile& file : contents.files) {
    for (const auto& [name, tensor] : file.tensors) {
      if (is_tied_copy(contents, name)) continue;
      contents.elements[name_of(tensor.dtype())] += tensor.numel();
      contents.bytes += tensor.bytes();
    }
  }
}

Contents contents_of_folder(const std::string& path) {
  Contents contents;
  Checkpoint checkpoint = open_checkpoint(path);
  contents.config = checkpoint.config;
  contents.files = std::move(checkpoint.files);
  for (const char* name : kTokenizerFiles) {
    if (file_exists((fs::path(path) / name).string())) contents.tokenizer.push_back(name);
  }
  return contents;
}

Contents contents_of_file(const std::string& path) {
  Contents contents;
  contents.files = open_weight_file(path).files;
  if (contents.files.size() == 1) contents.state = summarize_state(contents.files.front());
  return contents;
}

Contents contents_of(const std::string& path) {
  std::error_code error;
  Contents contents =
      fs::is_directory(path, error) ? contents_of_folder(path) : contents_of_file(path);
  count_elements(contents);
  return contents;
}

std::string file_name(const WeightFile& file) { return fs::path(file.path).filename().string(); }

// ---- for people

template <class Value>
void line(std::string_view name, const Value& value) {
  fmt::print("{:<14}{}\n", name, value);
}

std::string joined(const std::vector<std::string>& items) {
  return items.empty() ? "none" : fmt::format("{}", fmt::join(items, ", "));
}

void print_config(const ModelConfig& c) {
  line("architecture", fmt::format("{}, {} layout", c.architecture(), name_of(c.layout)));
  line("layers", c.n_layers);
  line("d_model", c.d_model);
  if (is_mamba(c.mixer)) {
    line("d_inner", c.d_inner);
    line("d_state", c.d_state);
    line("d_conv", c.d_conv);
  } else {
    line("mixer", ssm_cfg_json(c));
  }
  if (c.d_intermediate > 0) {
    line("mlp", fmt::format("{} of {} channels{}", name_of(c.mlp), c.d_intermediate,
                            c.mlp_bias ? ", with biases" : ""));
  }
  if (c.norm == NormKind::layer) line("norm", "LayerNorm");
  if (c.max_positions > 0) line("positions", fmt::format("{}, learned", c.max_positions));
  if (c.mixer == MixerKind::mamba) line("dt_rank", c.dt_rank);
  if (!c.has_published_selection()) {
    const auto depends = [](bool is) { return is ? "by token" : "constant"; };
    line("selection",
         fmt::format("dt {}, B {}, C {}, {}", depends(c.selective_dt), depends(c.selective_B),
                     depends(c.selective_C), c.gate ? "gate" : "no gate"));
  }
  if (c.mixer == MixerKind::mamba2) {
    line("heads", fmt::format("{} of {} channels, in {} group{}", c.n_heads(), c.head_dim,
                              c.n_groups, c.n_groups == 1 ? "" : "s"));
  }
  line("vocabulary", c.vocab() == c.vocab_size
                         ? fmt::format("{}", c.vocab_size)
                         : fmt::format("{}, padded to {}", c.vocab_size, c.vocab()));
  line("head", c.tied_head ? "tied to the embedding" : "its own");
  if (!is_mamba(c.mixer)) return;
  line("biases", fmt::format("convolution {}, projections {}", c.conv_bias ? "yes" : "no",
                             c.bias ? "yes" : "no"));
}

void print_state(const StateSummary& state) {
  line("saved state", fmt::format("of the model {}", state.model));
  line("positions", fmt::format("{}", fmt::join(state.positions, ", ")));
}

void print_elements(const Contents& contents) {
  const int64_t count = contents.parameters();
  line(contents.state ? "elements" : "parameters",
       fmt::format("{} ({})", count, count_text(count)));
  line("bytes", fmt::format("{} ({})", contents.bytes, bytes_text(contents.bytes)));
  std::vector<std::string> dtypes;
  for (const auto& [dtype, n] : contents.elements) {
    dtypes.push_back(n == count ? std::string(dtype) : fmt::format("{} {}", n, dtype));
  }
  line("dtype", joined(dtypes));
}

void print_tensors(const Contents& contents) {
  for (const WeightFile& file : contents.files) {
    for (const auto& [name, tensor] : file.tensors) {
      fmt::print("{:<48} {:<5} {:<18} {}\n", name, name_of(tensor.dtype()), tensor.shape().str(),
                 file_name(file));
    }
  }
}

std::string state_text(const ModelConfig& c) {
  const int64_t bytes = c.state_bytes(), growth = c.state_bytes_per_token();
  if (growth == 0) return fmt::format("{} ({}) a sequence, in float32", bytes, bytes_text(bytes));
  return fmt::format("grows by {} ({}) a token{}, in float32", growth, bytes_text(growth),
                     c.window > 0 ? fmt::format(", up to the window of {}", c.window) : "");
}

void print_text(const Contents& contents, bool tensors) {
  if (contents.config) print_config(*contents.config);
  if (contents.state) print_state(*contents.state);
  print_elements(contents);
  if (contents.config) {
    line("state", state_text(*contents.config));
    line("tokenizer", joined(contents.tokenizer));
  }
  std::vector<std::string> names;
  for (const WeightFile& file : contents.files) names.push_back(file_name(file));
  line("files", joined(names));
  if (tensors) print_tensors(contents);
}

// ---- for programs

void write_config(JsonWriter& json, const ModelConfig& c) {
  json.field("architecture", c.architecture()).field("layout", name_of(c.layout));
  json.field("layers", c.n_layers).field("d_model", c.d_model);
  if (is_mamba(c.mixer)) {
    json.field("d_inner", c.d_inner);
    json.field("d_state", c.d_state).field("d_conv", c.d_conv);
    json.field("conv_bias", c.conv_bias).field("bias", c.bias);
  }
  if (c.mixer == MixerKind::mamba) json.field("dt_rank", c.dt_rank);
  if (!c.has_published_selection()) {
    json.field("selective_dt", c.selective_dt).field("selective_B", c.selective_B);
    json.field("selective_C", c.selective_C).field("gate", c.gate);
  }
  if (c.mixer == MixerKind::mamba2) {
    json.field("heads", c.n_heads()).field("head_dim", c.head_dim).field("groups", c.n_groups);
  }
  if (!is_mamba(c.mixer)) {
    json.key("mixer");
    write_ssm_cfg(json, c);
  }
  json.field("vocab_size", c.vocab_size).field("padded_vocab_size", c.vocab());
  json.field("tied_head", c.tied_head);
  if (c.d_intermediate > 0) {
    json.field("d_intermediate", c.d_intermediate).field("mlp", name_of(c.mlp));
    json.field("mlp_bias", c.mlp_bias);
  }
  if (c.norm == NormKind::layer) json.field("norm", "layer");
  if (c.max_positions > 0) json.field("max_positions", c.max_positions);
  json.field("state_bytes", c.state_bytes());
  if (c.state_bytes_per_token() > 0) {
    json.field("state_bytes_per_token", c.state_bytes_per_token());
  }
}

void write_tensor(JsonWriter& json, const std::string& name, const Tensor& tensor,
                  const std::string& file) {
  json.begin_object().field("name", name).field("dtype", name_of(tensor.dtype()));
  json.key("shape").begin_array();
  for (int i = 0; i < tensor.shape().rank(); ++i) json.value(tensor.dim(i));
  json.end_array().field("file", file).end_object();
}

std::string json_text(const Contents& contents, bool tensors) {
  JsonWriter json;
  json.begin_object();
  if (contents.config) write_config(json, *contents.config);
  if (contents.state) {
    json.field("state_of", contents.state->model).field("positions", contents.state->positions);
  }
  json.field(contents.state ? "elements" : "parameters", contents.parameters());
  json.field("bytes", contents.bytes).key("dtypes").begin_object();
  for (const auto& [dtype, n] : contents.elements) json.field(dtype, n);
  json.end_object();
  if (contents.config) json.field("tokenizer", contents.tokenizer);
  json.key("files").begin_array();
  for (const WeightFile& file : contents.files) json.value(file_name(file));
  json.end_array();
  if (tensors) {
    json.key("tensors").begin_array();
    for (const WeightFile& file : contents.files) {
      for (const auto& [name, tensor] : file.tensors) {
        write_tensor(json, name, tensor, file_name(file));
      }
    }
    json.end_array();
  }
  return json.end_object().text();
}

void run_info(const Arguments& args) {
  const Contents contents = contents_of(args.path);
  if (args.json) {
    fmt::print("{}", json_text(contents, args.tensors));
  } else {
    print_text(contents, args.tensors);
  }
}

}  // namespace

void add_info_verb(CLI::App& app) {
  CLI::App* verb = app.add_subcommand("info", "Say what is in a checkpoint or a saved state");
  verb->footer(kFooter);
  const auto args = std::make_shared<Arguments>();
  verb->add_option("PATH", args->path, "Folder or file")->required()->check(not_empty());
  verb->add_flag("--tensors", args->tensors, "Each tensor: name, dtype, shape, file");
  verb->add_flag("--json", args->json, "As JSON");
  verb->callback([args] { run_info(*args); });
}

}  // namespace elapse
