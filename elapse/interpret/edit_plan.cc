// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/edit_plan.h"

#include <algorithm>
#include <numeric>

#include "elapse/core/random.h"
#include "elapse/io/messages.h"

namespace elapse {

using Kind = EditSpec::Op;
using Axis = PointInfo::Axis;

struct EditPlan::Item {
  EditSpec spec;
  PointInfo point;
  Tensor value = {};  // of set, add, scale and project_out, and of zero
  // Of mean, resample and swap: values by row, of the selected channels and states.
  ActivationCache cache = {};
  std::vector<std::vector<int64_t>> sources = {};  // by prompt, the cached prompts: their mean
};

namespace {

bool takes_from_runs(Kind op) {
  return op == Kind::mean || op == Kind::resample || op == Kind::swap;
}

EditOp pass_op(Kind op) {
  if (op == Kind::add) return EditOp::add;
  if (op == Kind::scale) return EditOp::scale;
  return op == Kind::project_out ? EditOp::project_out : EditOp::set;
}

Tensor upload(Device& device, DType dtype, const std::vector<double>& values, Shape shape) {
  if (dtype == DType::f64) return device.upload(values, shape);
  return device.upload(std::vector<float>(values.begin(), values.end()), shape);
}

double element(const Tensor& t, int64_t i) {
  return t.dtype() == DType::f64 ? t.data<double>()[i] : static_cast<double>(t.data<float>()[i]);
}

int64_t end_of(const IndexRange& range, int64_t size) {
  return range.end == IndexRange::kToEnd ? size : range.end;
}

// The selected channels and states of every row.
Tensor part_of(const EditSpec& edit, const Tensor& t) {
  if (edit.channels.is_all() && edit.states.is_all()) return t;
  const Shape& shape = t.shape();
  const int64_t channels = shape.rank() > 1 ? shape[1] : 1,
                states = shape.rank() > 2 ? shape[2] : 1;
  const int64_t last_c = end_of(edit.channels, channels), last_n = end_of(edit.states, states);
  ELAPSE_CHECK(last_c <= channels && last_n <= states,
               "{}: more channels or states are selected than the cached values have, {}",
               edit.where, shape.str());
  Shape part = {shape[0], last_c - edit.channels.begin};
  if (shape.rank() > 2) part.push_back(last_n - edit.states.begin);
  const auto values = std::make_shared<std::vector<double>>();
  for (int64_t r = 0; r < shape[0]; ++r) {
    for (int64_t c = edit.channels.begin; c < last_c; ++c) {
      for (int64_t n = edit.states.begin; n < last_n; ++n) {
        values->push_back(element(t, (r * channels + c) * states + n));
      }
    }
  }
  return Tensor::wrap(values->data(), DType::f64, part, values);
}

// Reference prompts whose positions are the prompt's.
std::vector<int64_t> matching_references(const EditSpec& edit, int64_t number, const Prompt& prompt,
                                         const std::vector<Prompt>& reference) {
  std::vector<int64_t> found;
  for (int64_t r = 0; r < std::ssize(reference); ++r) {
    const Prompt& other = reference[static_cast<size_t>(r)];
    const bool alike =
        other.tokens.size() == prompt.tokens.size() && other.notes.group == prompt.notes.group;
    if (alike) found.push_back(r);
  }
  ELAPSE_CHECK(!found.empty(),
               "{}: \"{}\" of prompt {}: expected reference prompts of {} tokens{}, found none",
               edit.where, name_of(edit.op), number, prompt.tokens.size(),
               prompt.notes.group.empty() ? "" : " and template " + quote(prompt.notes.group));
  return found;
}

std::vector<std::vector<int64_t>> sources_of(const EditSpec& edit, const ActivationCache& cache,
                                             const std::vector<Prompt>& prompts,
                                             const std::vector<Prompt>& reference) {
  std::vector<std::vector<int64_t>> sources(prompts.size());
  for (int64_t p = 0; p < std::ssize(prompts); ++p) {
    const auto i = static_cast<size_t>(p);
    const bool edited = edit.prompts.empty() || std::find(edit.prompts.begin(), edit.prompts.end(),
                                                          p) != edit.prompts.end();
    if (!edited) continue;
    if (edit.op == Kind::swap) {
      const int64_t from = cache.lengths.size() == 1 ? 0 : p;
      ELAPSE_CHECK(from < std::ssize(cache.lengths), "{}: {} has {} prompts, none for prompt {}",
                   edit.where, edit.cache, cache.lengths.size(), p);
      sources[i] = {from};
      continue;
    }
    sources[i] = matching_references(edit, p, prompts[i], reference);
    if (edit.op == Kind::resample) {
      Random random(edit.seed, static_cast<uint64_t>(p));
      sources[i] = {sources[i][static_cast<size_t>(random.below(std::ssize(sources[i])))]};
    }
  }
  return sources;
}

}  // namespace

EditPlan::EditPlan(const LanguageModel& model, std::vector<EditSpec> edits,
                   std::vector<Prompt> prompts, const std::vector<Prompt>& reference)
    : model_(model), specs_(std::move(edits)), prompts_(std::move(prompts)) {
  for (const EditSpec& edit : specs_) plan(edit, reference);
}

bool EditPlan::is_edited(const EditSpec& edit, int64_t prompt) const {
  return edit.prompts.empty() ||
         std::find(edit.prompts.begin(), edit.prompts.end(), prompt) != edit.prompts.end();
}

void EditPlan::plan(const EditSpec& edit, const std::vector<Prompt>& reference) {
  const int64_t count = std::ssize(prompts_);
  for (const int64_t p : edit.prompts) {
    ELAPSE_CHECK(p < count, "{}: prompt {} is to be edited, but there are {}", edit.where, p,
                 count);
  }
  for (int64_t p = 0; p < count; ++p) {
    if (is_edited(edit, p)) places(edit, p);
  }
  std::vector<std::string> names;
  try {
    names = matching_points(model_, edit.point);
  } catch (const Error& error) {
    fail("{}: {}", edit.where, error.what());
  }
  ActivationCache cache;
  if (edit.op == Kind::swap) {
    cache = load_cache(edit.cache);
  } else if (takes_from_runs(edit.op)) {
    ELAPSE_CHECK(!reference.empty(), "{}: \"{}\" needs reference prompts, but there are none",
                 edit.where, name_of(edit.op));
    cache = cache_activations(model_, tokens_of(reference), {.points = names});
  }
  for (const std::string& name : names) {
    const auto info = std::find_if(model_.points().begin(), model_.points().end(),
                                   [&](const PointInfo& p) { return p.name == name; });
    auto item = std::make_shared<Item>(Item{edit, *info});
    if (takes_from_runs(edit.op)) {
      ELAPSE_CHECK(info->axis == Axis::token,
                   "{}: \"{}\" has no value for each token, and so none to take from another run",
                   edit.where, name);
      ELAPSE_CHECK(cache.at(name).dim(0) == cache.token_rows(),
                   "{}: \"{}\": expected a cached row for each of {} tokens, found {}", edit.where,
                   name, cache.token_rows(), cache.at(name).shape().str());
      item->cache = {cache.lengths, cache.positions, {{name, part_of(edit, cache.at(name))}}};
      item->sources = sources_of(edit, cache, prompts_, reference);
    } else {
      const bool zero = edit.op == Kind::zero;
      item->value = upload(model_.device(), model_.dtype(), zero ? std::vector{0.0} : edit.value,
                           zero ? Shape{1} : edit.value_shape);
    }
    items_.push_back(std::move(item));
  }
}

// Positions of a prompt as passes count them; all of them where the edit names none.
std::vector<int64_t> EditPlan::places(const EditSpec& edit, int64_t prompt) const {
  const Prompt& p = prompts_[static_cast<size_t>(prompt)];
  const int64_t length = std::ssize(p.tokens);
  std::vector<int64_t> list(edit.positions.empty() ? p.tokens.size() : 0);
  std::iota(list.begin(), list.end(), 0);
  for (const EditSpec::Place& place : edit.positions) {
    if (const auto* label = std::get_if<std::string>(&place)) {
      const auto found = p.notes.labels.find(*label);
      ELAPSE_CHECK(found != p.notes.labels.end(), "{}: prompt {} has no position labelled {}",
                   edit.where, prompt, quote(*label));
      list.push_back(found->second);
      continue;
    }
    const int64_t number = std::get<int64_t>(place);
    ELAPSE_CHECK(number >= -length && number < length,
                 "{}: position {} is to be edited, but prompt {} has {} tokens", edit.where, number,
                 prompt, length);
    list.push_back(number < 0 ? number + length : number);
  }
  return list;
}

// Of the cached prompts' mean at these places: (places, channels) or (places, channels, states).
Tensor EditPlan::rows_of(const Item& item, int64_t prompt,
                         const std::vector<int64_t>& places) const {
  const Tensor& cached = item.cache.values.front().tensor;
  const int64_t width = cached.numel() / std::max<int64_t>(1, cached.dim(0));
  std::vector<double> values(places.size() * static_cast<size_t>(width), 0.0);
  const std::vector<int64_t>& from = item.sources[static_cast<size_t>(prompt)];
  for (size_t i = 0; i < places.size(); ++i) {
    double* row = values.data() + i * static_cast<size_t>(width);
    for (const int64_t source : from) {
      const int64_t at = item.cache.row(source, places[i]) * width;
      for (int64_t c = 0; c < width; ++c) row[c] += element(cached, at + c);
    }
    for (int64_t c = 0; c < width; ++c) row[c] /= static_cast<double>(from.size());
  }
  Shape shape = cached.shape();
  shape.set(0, std::ssize(places));
  return upload(model_.device(), model_.dtype(), values, shape);
}

std::vector<Edit> EditPlan::edits(const std::vector<int64_t>& prompts,
                                  int64_t first_sequence) const {
  std::vector<Edit> list;
  for (const auto& item : items_) {
    const EditSpec& spec = item->spec;
    const Selection part = {.channels = spec.channels, .states = spec.states};
    if (item->point.axis == Axis::none) {
      ELAPSE_CHECK(spec.prompts.empty() && spec.positions.empty(),
                   "{}: \"{}\" is the same for all tokens of all prompts: none can be selected",
                   spec.where, item->point.name);
      list.push_back({item->point.name, pass_op(spec.op), item->value, part});
      continue;
    }
    ELAPSE_CHECK(item->point.axis != Axis::sequence || spec.positions.empty(),
                 "{}: \"{}\" is a value of prompts, not of tokens: no position can be selected",
                 spec.where, item->point.name);
    for (int64_t i = 0; i < std::ssize(prompts); ++i) {
      const int64_t prompt = prompts[static_cast<size_t>(i)];
      if (!is_edited(spec, prompt)) continue;
      Selection where = part;
      where.sequences = {first_sequence + i};
      const std::vector<int64_t> at = places(spec, prompt);
      if (!spec.positions.empty()) where.positions = at;
      list.push_back({item->point.name, pass_op(spec.op),
                      takes_from_runs(spec.op) ? rows_of(*item, prompt, at) : item->value, where});
    }
  }
  return list;
}

namespace {

// "layers.3.mixer.h": 3; what follows the layers: their number.
int64_t layer_of(const std::string& point, int64_t n_layers) {
  if (point == "embed") return 0;
  if (!point.starts_with("layers.")) return n_layers;
  return std::stoll(point.substr(7));
}

}  // namespace

std::optional<EditPlan::Start> EditPlan::start(int64_t prompt) const {
  std::optional<Start> start;
  for (const auto& item : items_) {
    if (!is_edited(item->spec, prompt)) continue;
    const std::vector<int64_t> at = places(item->spec, prompt);
    const int64_t layer = layer_of(item->point.name, model_.config().n_layers);
    const int64_t token =
        item->point.axis == Axis::token ? *std::min_element(at.begin(), at.end()) : 0;
    start = start ? Start{std::min(start->layer, layer), std::min(start->token, token)}
                  : Start{layer, token};
  }
  return start;
}

LastLogits edited_logits(const LanguageModel& model, const EditPlan& plan, int64_t batch_tokens) {
  const TokenLists all = tokens_of(plan.prompts());
  LastLogits logits = {0, model.config().vocab_size, {}};
  for (const IndexRange& range : batches_of(all, batch_tokens)) {
    std::vector<int64_t> numbers(static_cast<size_t>(range.end - range.begin));
    std::iota(numbers.begin(), numbers.end(), range.begin);
    Points points;
    for (Edit& edit : plan.edits(numbers)) points.edit(std::move(edit));
    Tape tape(model.device(), false);
    const Batch batch = pack(model, TokenLists(all.begin() + range.begin, all.begin() + range.end));
    const LastLogits some =
        last_logits(model, model.forward(tape, batch, nullptr, &points).value());
    logits.sequences += some.sequences;
    logits.values.insert(logits.values.end(), some.values.begin(), some.values.end());
  }
  return logits;
}

TokenLists tokens_of(const std::vector<Prompt>& prompts) {
  TokenLists lists;
  for (const Prompt& prompt : prompts) lists.push_back(prompt.tokens);
  return lists;
}

}  // namespace elapse
