// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/edits.h"

#include <algorithm>
#include <array>

#include "elapse/core/error.h"
#include "elapse/io/json.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

using Op = EditSpec::Op;

constexpr std::array<std::pair<Op, std::string_view>, 8> kNames = {{
    {Op::set, "set"},
    {Op::add, "add"},
    {Op::scale, "scale"},
    {Op::zero, "zero"},
    {Op::project_out, "project-out"},
    {Op::mean, "mean"},
    {Op::resample, "resample"},
    {Op::swap, "swap-from-cache"},
}};

bool has_value(Op op) {
  return op == Op::set || op == Op::add || op == Op::scale || op == Op::project_out;
}

Op op_of(const Json& value) {
  const std::string text = value.text();
  std::vector<std::string_view> names;
  for (const auto& [op, name] : kNames) {
    if (name == text) return op;
    names.push_back(name);
  }
  fail("{}: expected an operation, found {}; near it: {}", value.where(), quote(text),
       nearest_names(text, names));
}

void check_fields(const Json& edit, Op op) {
  std::vector<std::string_view> known = {"point",     "op",       "prompts",
                                         "positions", "channels", "states"};
  if (has_value(op)) known.push_back("value");
  if (op == Op::swap) known.push_back("cache");
  if (op == Op::resample) known.push_back("seed");
  for (const std::string& key : edit.keys()) {
    ELAPSE_CHECK(std::find(known.begin(), known.end(), key) != known.end(),
                 "{}: the operation \"{}\" has no field {}; near it: {}", edit.where(), name_of(op),
                 quote(key), nearest_names(key, known));
  }
}

int64_t whole_number(const Json& value) {
  const int64_t number = value.integer();
  ELAPSE_CHECK(number >= 0, "{}: expected a whole number, found {}", value.where(), number);
  return number;
}

std::vector<int64_t> prompts_of(const Json& list) {
  std::vector<int64_t> numbers;
  for (const Json& item : list.items()) {
    numbers.push_back(whole_number(item));
    const bool twice =
        std::find(numbers.begin(), numbers.end() - 1, numbers.back()) != numbers.end() - 1;
    ELAPSE_CHECK(!twice, "{}: expected each prompt once, found {} twice", list.where(),
                 numbers.back());
  }
  ELAPSE_CHECK(!numbers.empty(), "{}: expected numbers of prompts, found none", list.where());
  return numbers;
}

std::vector<EditSpec::Place> places_of(const Json& list) {
  std::vector<EditSpec::Place> places;
  for (const Json& item : list.items()) {
    if (item.is_text()) places.emplace_back(item.text());
    else places.emplace_back(item.integer());
  }
  ELAPSE_CHECK(!places.empty(), "{}: expected positions, found none", list.where());
  return places;
}

IndexRange range_of(const Json& edit, const char* field) {
  if (!edit.has(field)) return {};
  const Json list = edit.at(field);
  const std::vector<Json> items = list.items();
  ELAPSE_CHECK(items.size() == 2, "{}: expected the first and the one after the last, found {}",
               list.where(), items.size());
  const IndexRange range = {whole_number(items[0]), whole_number(items[1])};
  ELAPSE_CHECK(range.begin < range.end,
               "{}: expected the one after the last to be beyond {}, found {}", list.where(),
               range.begin, range.end);
  return range;
}

// A number, a list of them, or a list of lists of one length.
void read_value(const Json& value, EditSpec& edit) {
  if (!value.is_array()) {
    edit.value = {value.number()};
    edit.value_shape = {1};
    return;
  }
  const std::vector<Json> rows = value.items();
  ELAPSE_CHECK(!rows.empty(), "{}: expected numbers, found none", value.where());
  edit.value_shape = {1, std::ssize(rows)};
  const bool has_states = rows.front().is_array();
  if (has_states) edit.value_shape.push_back(std::ssize(rows.front().items()));
  for (const Json& row : rows) {
    if (!has_states) {
      edit.value.push_back(row.number());
      continue;
    }
    const std::vector<Json> items = row.items();
    ELAPSE_CHECK(std::ssize(items) == edit.value_shape[2] && !items.empty(),
                 "{}: expected {} numbers, as in the rows before, found {}", row.where(),
                 std::max<int64_t>(1, edit.value_shape[2]), items.size());
    for (const Json& item : items) edit.value.push_back(item.number());
  }
}

EditSpec edit_of(const Json& json) {
  EditSpec edit;
  edit.where = json.where();
  edit.point = json.text("point");
  edit.op = op_of(json.at("op"));
  check_fields(json, edit.op);
  if (json.has("prompts")) edit.prompts = prompts_of(json.at("prompts"));
  if (json.has("positions")) edit.positions = places_of(json.at("positions"));
  edit.channels = range_of(json, "channels");
  edit.states = range_of(json, "states");
  if (has_value(edit.op)) read_value(json.at("value"), edit);
  if (edit.op == Op::swap) edit.cache = json.text("cache");
  if (json.has("seed")) edit.seed = static_cast<uint64_t>(whole_number(json.at("seed")));
  return edit;
}

}  // namespace

std::string_view name_of(EditSpec::Op op) {
  return std::find_if(kNames.begin(), kNames.end(), [&](const auto& n) { return n.first == op; })
      ->second;
}

std::vector<EditSpec> parse_edits(std::string_view json, const std::string& name) {
  std::vector<EditSpec> edits;
  for (const Json& item : Json::parse(json, name).items()) edits.push_back(edit_of(item));
  return edits;
}

}  // namespace elapse
