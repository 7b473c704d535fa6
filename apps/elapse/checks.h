// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/App.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/core/dtype.h"
#include "elapse/core/error.h"

// What the values of options are held to, with complaints in words: CLI11's own show the bounds of
// a double, and its numbers wrap around.
namespace elapse {

CLI::Validator not_empty();  // for paths
CLI::Validator whole_number(int64_t least, int64_t most = INT64_MAX);
CLI::Validator seed();       // 0 to 2^64 - 1
CLI::Validator byte_size();  // for transform(): 5GB or 200MB, in powers of 1000, becomes bytes

// Adds --dtype: what models compute in, f32 or bf16, and the dtype of that name.
void add_dtype_option(CLI::App& verb, std::string& name);
DType compute_dtype(const std::string& name);

// A flag and the path that was given to it; none if that is empty.
struct FlagPath {
  std::string flag, path;
};

// Throws CLI::ValidationError naming both flags where the file to write is one that is read: an
// input itself or, in a folder that is an input, a file of a model or of a training run.
void check_replaces_none(const FlagPath& output, const std::vector<FlagPath>& inputs);

// A field of the library's, and the flag that sets it.
struct FieldFlag {
  std::string_view field, flag;
};

// Throws the library's complaint about a field ("peak_lr: expected ...") as one about the flag, and
// says so where the value was the flag's default.
[[noreturn]] void fail_usage(const CLI::App& verb, const Error& error,
                             const std::vector<FieldFlag>& flags);

// Throws CLI::ValidationError where the first of the words after the program's name, or after a
// verb that has verbs of its own, is none of its verbs.
void check_verb(const CLI::App& app, const std::vector<std::string_view>& words);

}  // namespace elapse
