// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/checks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <optional>

#include "elapse/io/messages.h"
#include "elapse/model/checkpoint_files.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

template <class Integer>
CLI::Validator number(Integer least, Integer most) {
  const std::string expected = most == std::numeric_limits<int64_t>::max()
                                   ? fmt::format("of at least {}", least)
                                   : fmt::format("from {} to {}", least, most);
  const auto complaint = [=](std::string& text) {
    Integer value{};
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    // CLI11 would read 010 as 8.
    const bool octal = text.size() > 1 && text[text.front() == '-' ? 1 : 0] == '0';
    const bool whole = error == std::errc() && rest == text.data() + text.size() && !octal;
    if (!whole || value < least || value > most) {
      return fmt::format("expected a whole number {}, found {}", expected, quote(text));
    }
    return std::string();
  };
  return {complaint, ""};
}

// "200MB" -> 200000000; none where it is no size.
std::optional<int64_t> bytes_in(std::string_view text) {
  int64_t bytes = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), bytes);
  std::string unit(rest, text.data() + text.size());
  std::transform(unit.begin(), unit.end(), unit.begin(),
                 [](unsigned char c) { return tolower(c); });
  if (error != std::errc() || bytes < 1 || text.front() == '0') return {};
  int64_t scale = 1;
  for (const std::string_view known : {"b", "kb", "mb", "gb", "tb"}) {
    if (unit == known || (unit.empty() && scale == 1)) {
      return bytes <= INT64_MAX / scale ? std::optional(bytes * scale) : std::nullopt;
    }
    scale *= 1000;
  }
  return {};
}

// Also where one of them is not there yet.
bool same_path(const fs::path& a, const fs::path& b) {
  std::error_code none;
  const auto whole = [&](const fs::path& p) { return fs::weakly_canonical(fs::absolute(p), none); };
  return fs::equivalent(a, b, none) || whole(a) == whole(b);
}

bool is_models(const fs::path& file) {
  const std::string name = file.filename().string();
  return is_checkpoint_file(name) || name == kResumeFile;
}

// Whether `file` is one of those that make up the model in a folder, or would be.
bool is_of_model(const fs::path& file, const fs::path& folder) {
  if (is_models(file) && same_path(fs::absolute(file).parent_path(), folder)) return true;
  std::error_code error;  // a folder that cannot be listed has none
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (is_models(at->path()) && same_path(at->path(), file)) return true;
  }
  return false;
}

std::vector<std::string_view> verbs_of(const std::vector<const CLI::App*>& verbs) {
  std::vector<std::string_view> names;
  for (const CLI::App* verb : verbs) names.push_back(verb->get_name());
  return names;
}

}  // namespace

CLI::Validator not_empty() {
  const auto complaint = [](std::string& path) {
    return std::string(path.empty() ? "expected a path, found an empty one" : "");
  };
  return {complaint, ""};
}

CLI::Validator whole_number(int64_t least, int64_t most) { return number(least, most); }

CLI::Validator seed() { return number(uint64_t{0}, UINT64_MAX); }

CLI::Validator byte_size() {
  const auto complaint = [](std::string& text) {
    const auto bytes = bytes_in(text);
    if (!bytes) return "expected a size such as 5GB or 200MB, found " + quote(text);
    text = fmt::format("{}", *bytes);
    return std::string();
  };
  return {complaint, ""};
}

void add_dtype_option(CLI::App& verb, std::string& name) {
  verb.add_option(
          "--dtype", name,
          "What it computes in: f32, or bf16 (on cuda; parameters, states and sums are f32)")
      ->check(CLI::IsMember({"f32", "bf16"}));
}

DType compute_dtype(const std::string& name) {
  return name == name_of(DType::bf16) ? DType::bf16 : DType::f32;
}

void check_replaces_none(const FlagPath& output, const std::vector<FlagPath>& inputs) {
  if (output.path.empty()) return;
  for (const auto& [flag, path] : inputs) {
    if (path.empty()) continue;
    if (same_path(output.path, path)) {
      throw CLI::ValidationError(
          output.flag, fmt::format("{} would be replaced, which {} reads", output.path, flag));
    }
    if (is_of_model(output.path, path)) {
      throw CLI::ValidationError(output.flag, fmt::format("{} would be replaced, a file of {} {}",
                                                          output.path, flag, path));
    }
  }
}

void fail_usage(const CLI::App& verb, const Error& error, const std::vector<FieldFlag>& flags) {
  const std::string sentence = error.what();
  for (const auto& [field, flag] : flags) {
    const std::string opening = fmt::format("{}: ", field);
    if (!sentence.starts_with(opening)) continue;
    const bool given = !verb.get_option(std::string(flag))->empty();
    throw CLI::ValidationError(std::string(flag), sentence.substr(opening.size()) +
                                                      (given ? "" : ", which is its default"));
  }
  throw CLI::ValidationError(sentence);
}

void check_verb(const CLI::App& app, const std::vector<std::string_view>& words) {
  // Groups of options are subcommands without a name.
  const auto verbs =
      app.get_subcommands([](const CLI::App* verb) { return !verb->get_name().empty(); });
  if (verbs.empty() || (!words.empty() && words.front().starts_with('-'))) return;
  const auto names = verbs_of(verbs);
  if (words.empty()) {
    throw CLI::ValidationError(fmt::format("{}: expected one of {}, found nothing", app.get_name(),
                                           fmt::join(names, ", ")));
  }
  const auto found = std::find(names.begin(), names.end(), words.front());
  if (found == names.end()) {
    throw CLI::ValidationError(fmt::format(
        "{}: expected one of {}, found {}; did you mean {}?", app.get_name(),
        fmt::join(names, ", "), quote(words.front()), nearest_names(words.front(), names)));
  }
  check_verb(*verbs[static_cast<size_t>(found - names.begin())], {words.begin() + 1, words.end()});
}

}  // namespace elapse
