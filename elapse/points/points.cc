// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/points.h"

#include <algorithm>

#include "elapse/points/names.h"

namespace elapse {
namespace {

void append(std::string& text, std::string_view what, const std::vector<int64_t>& numbers) {
  if (!numbers.empty()) text += fmt::format(" {} {}", what, fmt::join(numbers, ","));
}

void append(std::string& text, std::string_view what, const IndexRange& range) {
  if (range.is_all()) return;
  text += fmt::format(" {} {}:", what, range.begin);
  if (range.end != IndexRange::kToEnd) text += fmt::format("{}", range.end);
}

// Moves the position that the name itself holds into the selection.
std::string own_name(std::string_view name, Selection& where) {
  const PointName own = canonical_point(name);
  if (own.position) {
    ELAPSE_CHECK(where.positions.empty(), "point \"{}\": its name says which position already",
                 name);
    where.positions = {*own.position};
  }
  return own.name;
}

}  // namespace

std::string Selection::str() const {
  std::string text;
  append(text, "sequences", sequences);
  append(text, "positions", positions);
  append(text, "channels", channels);
  append(text, "states", states);
  return text.empty() ? text : text.substr(1);
}

void Points::add(Watches& watches, std::string_view name, Selection where) {
  const std::string own = own_name(name, where);
  const bool fresh = watches.try_emplace(own, Watch{std::move(where), {}}).second;
  ELAPSE_CHECK(fresh, "point \"{}\" is watched already", name);
}

void Points::watch(std::string_view name, Selection where) { add(values_, name, std::move(where)); }

void Points::watch_gradient(std::string_view name, Selection where) {
  add(gradients_, name, std::move(where));
}

void Points::edit(Edit change) {
  ELAPSE_CHECK(change.op != EditOp::none && change.source,
               "edit of \"{}\": an operation and its source are needed", change.point);
  change.point = own_name(change.point, change.where);
  edits_.push_back(std::move(change));
}

const Tensor& Points::kept(const Watches& watches, std::string_view name) {
  const auto found = watches.find(canonical_point(name).name);
  ELAPSE_CHECK(found != watches.end(), "point \"{}\" is not watched", name);
  ELAPSE_CHECK(found->second.kept, "point \"{}\" was not passed by the last forward pass{}", name,
               found->second.where.is_all() ? "" : " where it is watched");
  return found->second.kept;
}

const Tensor& Points::value(std::string_view name) const { return kept(values_, name); }
const Tensor& Points::gradient(std::string_view name) const { return kept(gradients_, name); }

std::vector<std::string> Points::watched() const {
  std::vector<std::string> names;
  for (const auto& [name, watch] : values_) names.push_back(name);
  return names;
}

std::vector<std::string> Points::names() const {
  std::vector<std::string> names = watched();
  for (const auto& [name, watch] : gradients_) names.push_back(name);
  for (const Edit& change : edits_) names.push_back(change.point);
  return names;
}

void Points::check_names(const std::vector<PointInfo>& known) const {
  for (const std::string& name : names()) {
    const bool there = std::any_of(known.begin(), known.end(),
                                   [&](const PointInfo& point) { return point.name == name; });
    ELAPSE_CHECK(there, "the model has no point \"{}\" (it has {} points, from \"{}\" to \"{}\")",
                 name, known.size(), known.front().name, known.back().name);
  }
}

std::string Points::key() const {
  std::string key;
  for (const auto& [name, watch] : values_) {
    key += fmt::format("watch {} {};", name, watch.where.str());
  }
  for (const auto& [name, watch] : gradients_) {
    key += fmt::format("gradient {} {};", name, watch.where.str());
  }
  for (const Edit& change : edits_) {
    key += fmt::format("edit {} {} {} {};", change.point, static_cast<int>(change.op),
                       change.source.shape().str(), change.where.str());
  }
  return key;
}

}  // namespace elapse
