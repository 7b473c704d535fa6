// SPDX-License-Identifier: Apache-2.0
// Python's pickle format, read without running anything: the part of protocol 2 that torch.save
// writes (Python's Lib/pickletools.py describes every opcode). What a pickle may name and call is
// the host's to say.
#pragma once
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "elapse/core/tensor.h"
#include "elapse/io/bytes.h"

namespace elapse {

class PickleValue;
using PickleValues = std::vector<const PickleValue*>;

struct PickleNone {};
struct PickleGlobal {
  std::string name;  // "module.name"
};
struct PickleTuple {
  PickleValues items;
};
struct PickleList {
  PickleValues items;
};
struct PickleDict {
  std::vector<std::pair<const PickleValue*, const PickleValue*>> items;  // as set: keys may repeat
};
struct PickleStorage {
  DType dtype;
  SharedBytes data;
};

// Values refer to one another by plain pointers into their Pickle, and may do so in circles.
class PickleValue
    : public std::variant<PickleNone, bool, int64_t, double, std::string, PickleGlobal, PickleTuple,
                          PickleList, PickleDict, PickleStorage, Tensor> {
 public:
  using variant::variant;

  template <class T>
  const T* as() const {  // null where it is of another type
    return std::get_if<T>(static_cast<const variant*>(this));
  }
  template <class T>
  T* as() {
    return std::get_if<T>(static_cast<variant*>(this));
  }
  std::string_view type_name() const;  // "a dict"
};

// The outer world of a pickle. What it throws goes through.
class PickleHost {
 public:
  virtual ~PickleHost() = default;
  // Whether the pickle may name `global` ("module.name"): where not, unpickle throws Error.
  virtual bool allows(std::string_view global) const = 0;
  virtual PickleValue call(std::string_view global, const PickleValues& arguments) = 0;
  virtual PickleValue load_persistent(const PickleValue& id) = 0;
};

struct Pickle {
  std::deque<PickleValue> values;
  const PickleValue* root = nullptr;
};

// Throws Error, opening with `name`, for malformed bytes, for opcodes that torch.save does not
// write, for globals that the host does not allow, and for more values than a checkpoint needs.
Pickle unpickle(std::span<const std::byte> bytes, const std::string& name, PickleHost& host);

}  // namespace elapse
