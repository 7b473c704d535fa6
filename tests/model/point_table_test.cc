// SPDX-License-Identifier: Apache-2.0
// docs/points.md against the models: every point with its shapes, every other name.
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "elapse/model/language_model.h"
#include "elapse/points/names.h"

namespace elapse {
namespace {

struct Row {
  std::string point;  // "layers.{i}.mixer.dt"
  // By MixerKind; "-", or "": there is none.
  std::array<std::string, kMixerKinds> shapes;
  std::vector<std::string> aliases;
  bool optional = false;  // of MLPs and learned positions, which not every model has
};

std::string trimmed(const std::string& text) {
  const size_t begin = text.find_first_not_of(' '), end = text.find_last_not_of(' ');
  return begin == std::string::npos ? "" : text.substr(begin, end - begin + 1);
}

std::vector<std::string> names_in(const std::string& cell) {
  std::vector<std::string> names;
  for (size_t at = 0; (at = cell.find('`', at)) != std::string::npos; ++at) {
    const size_t end = cell.find('`', at + 1);
    names.push_back(cell.substr(at + 1, end - at - 1));
    at = end;
  }
  return names;
}

std::vector<std::string> cells_in(const std::string& line) {
  std::vector<std::string> cells;
  std::istringstream parts(line.substr(1));
  for (std::string cell; std::getline(parts, cell, '|');) cells.push_back(trimmed(cell));
  return cells;
}

// Of a point within mixers each column is a mixer's, by the table's head; the points around them,
// which stand in the first table, are every model's.
Row read_row(const std::vector<std::string>& head, const std::vector<std::string>& cells) {
  Row row = {names_in(cells.at(0)).at(0), {}, {}, head.at(1) == "shape"};
  const bool in_mixer = row.point.starts_with("layers.{i}.mixer.");
  for (size_t mixer = 0; mixer < kMixerKinds; ++mixer) {
    if (!in_mixer) row.shapes[mixer] = cells.at(1);
    for (size_t i = 1; i < head.size(); ++i) {
      if (head[i] == title_of(static_cast<MixerKind>(mixer))) row.shapes[mixer] = cells.at(i);
    }
  }
  for (size_t i = 1; i < head.size(); ++i) {
    if (head[i] != "MambaLens" && head[i] != "TransformerLens") continue;
    for (const std::string& alias : names_in(cells.at(i))) row.aliases.push_back(alias);
  }
  return row;
}

std::vector<Row> read_table() {
  std::ifstream file("docs/points.md");
  std::vector<Row> rows;
  std::vector<std::string> head;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| point ")) head = cells_in(line);
    if (line.starts_with("| `")) rows.push_back(read_row(head, cells_in(line)));
  }
  return rows;
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  const size_t at = text.find(what);
  return at == std::string::npos ? text : text.replace(at, what.size(), with);
}

// Sizes that all differ.
ModelConfig config_of(MixerKind mixer) {
  ModelConfig config = ModelConfig::of(mixer, 20, 2, 11);
  // What stands around mixers, around those of attention; the first table is without.
  if (mixer == MixerKind::attention) {
    config.d_intermediate = 14;
    config.max_positions = 30;
    config.head_dim = 10;
    config.n_kv_heads = 1;
  }
  if (is_recurrent(mixer)) config.d_inner = 13;
  if (is_mamba(mixer)) {
    config.d_state = 6;
    config.d_conv = 3;
  }
  if (mixer == MixerKind::mamba) config.dt_rank = 7;
  if (is_diagonal(mixer)) config.d_state = 6;
  if (mixer == MixerKind::mamba2) {
    config.head_dim = 4;
    config.n_groups = 5;
  }
  if (is_linear_attention(mixer)) {
    config.d_inner = 21;
    config.head_dim = 7;
    config.d_state = 4;
  }
  if (mixer == MixerKind::wavenet) {
    config.d_inner = 13;
    config.d_conv = 3;
  }
  if (mixer == MixerKind::hyena) config.l_max = 9;
  return config;
}

constexpr int64_t kLength = 9, kSequences = 3, kTokens = kLength * kSequences;

// "(tokens, n_groups d_state)" in numbers; a size is a word, "d_conv - 1" or a product of two.
std::string in_numbers(const std::string& shape, const ModelConfig& c) {
  const int64_t queue_rows = c.mixer == MixerKind::wavenet ? (c.d_conv - 1) * c.dilation_of(1) : 0;
  const std::map<std::string, int64_t> sizes = {{"tokens", kTokens},
                                                {"rows", kTokens},
                                                {"sequences", kSequences},
                                                {"d_model", c.d_model},
                                                {"d_inner", c.d_inner},
                                                {"3 d_inner", 3 * c.d_inner},
                                                {"4 d_inner", 4 * c.d_inner},
                                                {"d_conv_inner", c.d_conv_inner()},
                                                {"d_state", c.d_state},
                                                {"d_state / 2", c.d_state / 2},
                                                {"d_state - 1", c.d_state - 1},
                                                {"d_conv - 1", c.d_conv - 1},
                                                {"dt_rank", c.dt_rank},
                                                {"n_groups", c.n_groups},
                                                {"n_groups d_state", c.n_groups * c.d_state},
                                                {"n_heads", c.n_heads()},
                                                {"n_kv_heads", c.n_kv_heads},
                                                {"head_dim", c.head_dim},
                                                {"d_intermediate", c.d_intermediate},
                                                {"d_k", c.d_state},
                                                {"n_heads d_k", c.n_heads() * c.d_state},
                                                {"16", 16},
                                                {"width d_model", c.d_conv * c.d_model},
                                                {"3 d_model", 3 * c.d_model},
                                                {"l_max - 1", c.l_max - 1},
                                                {"queue_rows", queue_rows},
                                                {"vocab", c.vocab()},
                                                {"1", 1},
                                                {"2", 2}};
  Shape out;
  std::istringstream words(shape.substr(1, shape.size() - 2));
  for (std::string word; std::getline(words, word, ',');) out.push_back(sizes.at(trimmed(word)));
  return out.str();
}

class PointTable : public testing::TestWithParam<std::string> {};

TEST_P(PointTable, HasTheModelsPointsAndTheirShapes) {
  Device device("ref");
  const ModelConfig config = config_of(mixer_named(GetParam()));
  const LanguageModel model(device, config, DType::f32, 1);
  std::set<std::string> known;
  Points points;
  for (const PointInfo& info : model.points()) {
    if (info.name.starts_with("layers.0.")) continue;
    known.insert(info.name);
    points.watch(info.name);
  }
  const std::vector<int64_t> tokens(kTokens, 3);
  Tape tape(device, false);
  model.forward(tape,
                {device.upload(tokens, {kTokens}),
                 make_sequences(device, std::vector<int64_t>(kSequences, kLength)),
                 {}},
                nullptr, &points);
  for (const Row& row : read_table()) {
    const std::string& shape = row.shapes[static_cast<size_t>(config.mixer)];
    if (shape.empty() || shape == "-") continue;
    if (row.optional && config.d_intermediate == 0) continue;
    const bool many = row.point.find("{k}") != std::string::npos;
    const int64_t d_conv = config.mixer == MixerKind::h3 ? config.d_state : config.d_conv;
    for (int64_t k = 0; k < (many ? d_conv : 1); ++k) {
      const std::string name = replaced(replaced(row.point, "{i}", "1"), "{k}", std::to_string(k));
      ASSERT_EQ(known.erase(name), 1u) << name << " is no point of the model, or stands twice";
      EXPECT_EQ(points.value(name).shape().str(), in_numbers(shape, config)) << name;
    }
  }
  for (const std::string& name : known) ADD_FAILURE() << name << " is not in docs/points.md";
}

INSTANTIATE_TEST_SUITE_P(Mixers, PointTable, testing::ValuesIn(mixer_names()),
                         [](const auto& mixer) { return mixer.param; });

TEST(PointTable, HasTheOtherNames) {
  std::set<std::string> known;
  for (const PointAlias& alias : point_aliases()) {
    known.insert((alias.of_layer ? "blocks.{i}." : "") + alias.alias);
  }
  // Which are as many as there are tokens, and terms of the convolution.
  const std::string after_token = "hook_h.{t}", term = "hook_conv.-{k}";
  const auto in_numbers = [](const std::string& name) {
    return replaced(replaced(replaced(name, "{i}", "12"), "{t}", "7"), "{k}", "2");
  };
  for (const Row& row : read_table()) {
    for (const std::string& alias : row.aliases) {
      const std::string full = (row.point.starts_with("layers.") ? "blocks.{i}." : "") + alias;
      const PointName own = canonical_point(in_numbers(full));
      EXPECT_EQ(own.name, in_numbers(row.point)) << full;
      EXPECT_EQ(own.position.has_value(), alias == after_token);
      EXPECT_EQ(known.erase(full), alias == after_token || alias == term ? 0u : 1u) << full;
    }
  }
  for (const std::string& name : known) ADD_FAILURE() << name << " is not in docs/points.md";
}

}  // namespace
}  // namespace elapse
