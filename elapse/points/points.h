// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/ops/device.h"
#include "elapse/ops/tap.h"
#include "elapse/points/selection.h"

namespace elapse {

// A named point and what its value's first axis counts.
struct PointInfo {
  enum class Axis : uint8_t { token, logit_row, sequence, none };
  std::string name;
  Axis axis = Axis::token;
};

// A change to the value passing a named point, as data.
struct Edit {
  std::string point;  // "layers.3.mixer.dt"
  EditOp op = EditOp::none;
  // One element; or one row of the selected channels and states, for every row; or a row for each
  // that is selected, by sequence and then by position (in the selection's order).
  Tensor source;
  Selection where = {};
};

// What to watch and what to change inside a model while it runs: in training, prefill or decoding.
// The names are those a model lists (LanguageModel::points), or others' for the same values
// (elapse/points/names.h). Watching changes no bit of what the model computes; edits come first, in
// the order they were given, and watching then sees the edited value. Of a model that computes in
// bf16 all this is float32: what is watched is widened, and what edits give rounded where the value
// is of bf16.
class Points {
 public:
  // Error where the name is watched already.
  void watch(std::string_view name, Selection where = {});
  // The derivative of what Tape::backward starts from with respect to the value: of a pass that
  // records. For `h` that is the adjoint of the state, all its later effects included.
  void watch_gradient(std::string_view name, Selection where = {});
  void edit(Edit change);

  // Of the last forward pass, contiguous, in the point's shape: the selected rows, channels and
  // states. Rows are the packed tokens (of `logits`, the rows asked for; of conv_state and h_start,
  // the sequences), ordered by sequence and then as the selection orders positions. Throws Error
  // where the name is not watched, or no selected row was passed.
  const Tensor& value(std::string_view name) const;
  // Zeros where no gradient reached the value.
  const Tensor& gradient(std::string_view name) const;

  bool empty() const { return values_.empty() && gradients_.empty() && edits_.empty(); }
  bool watches_gradients() const { return !gradients_.empty(); }
  std::vector<std::string> watched() const;  // names whose values are watched
  std::vector<std::string> names() const;    // all that are watched or edited
  // Throws Error naming the first name that is not one of `known`.
  void check_names(const std::vector<PointInfo>& known) const;
  // Which names are watched and edited, where and how: equal for sets that run the same kernels, so
  // a captured device graph can be kept by it.
  std::string key() const;

 private:
  friend class PointPass;
  struct Watch {
    Selection where;
    Tensor kept;  // of the last pass
  };
  using Watches = std::map<std::string, Watch, std::less<>>;

  static void add(Watches& watches, std::string_view name, Selection where);
  static const Tensor& kept(const Watches& watches, std::string_view name);

  Watches values_, gradients_;
  std::vector<Edit> edits_;
};

}  // namespace elapse
