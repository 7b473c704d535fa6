// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/unpickler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/io/utf8.h"

namespace elapse {
namespace {

// A value takes some 150 bytes and its opcode as few as one: this bounds what a file can ask for.
// A tensor of a checkpoint is some 15 values.
constexpr size_t kMaxValues = size_t{1} << 20;

// Named as in Lib/pickletools.py.
enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kBinFloat = 'G',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
};

// The other opcodes there are, for errors to name.
constexpr std::array<std::pair<uint8_t, std::string_view>, 37> kRefusedOpcodes = {
    {{0x30, "POP"},
     {0x31, "POP_MARK"},
     {0x32, "DUP"},
     {0x42, "BINBYTES"},
     {0x43, "SHORT_BINBYTES"},
     {0x46, "FLOAT"},
     {0x49, "INT"},
     {0x4c, "LONG"},
     {0x50, "PERSID"},
     {0x53, "STRING"},
     {0x54, "BINSTRING"},
     {0x55, "SHORT_BINSTRING"},
     {0x56, "UNICODE"},
     {0x64, "DICT"},
     {0x67, "GET"},
     {0x69, "INST"},
     {0x6c, "LIST"},
     {0x6f, "OBJ"},
     {0x70, "PUT"},
     {0x81, "NEWOBJ"},
     {0x82, "EXT1"},
     {0x83, "EXT2"},
     {0x84, "EXT4"},
     {0x8b, "LONG4"},
     {0x8c, "SHORT_BINUNICODE"},
     {0x8d, "BINUNICODE8"},
     {0x8e, "BINBYTES8"},
     {0x8f, "EMPTY_SET"},
     {0x90, "ADDITEMS"},
     {0x91, "FROZENSET"},
     {0x92, "NEWOBJ_EX"},
     {0x93, "STACK_GLOBAL"},
     {0x94, "MEMOIZE"},
     {0x95, "FRAME"},
     {0x96, "BYTEARRAY8"},
     {0x97, "NEXT_BUFFER"},
     {0x98, "READONLY_BUFFER"}}};

// "0x93 (STACK_GLOBAL)", or the number alone where it is no opcode.
std::string opcode_name(uint8_t opcode) {
  for (const auto& [code, name] : kRefusedOpcodes) {
    if (code == opcode) return fmt::format("0x{:02x} ({})", opcode, name);
  }
  return fmt::format("0x{:02x}", opcode);
}

// The pickle machine: a stack of values, marks on it, and a memo of values to come back to.
class Machine {
 public:
  Machine(std::span<const std::byte> bytes, const std::string& name, PickleHost& host)
      : reader_(bytes, name), host_(host) {}

  Pickle run();

 private:
  using Value = PickleValue*;

  void step(uint8_t opcode);
  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail("{}: pickle opcode at byte {}: {}", reader_.what(), start_,
         fmt::format(format, std::forward<Args>(args)...));
  }

  void push(PickleValue value);
  Value pop();
  Value top();
  PickleValues pop_many(size_t count);
  PickleValues pop_to_mark();
  template <class T>
  T& top_as(std::string_view expected);

  void push_text();
  void push_long();
  void push_float();
  void push_global();
  void push_tuple(PickleValues items) { push(PickleTuple{std::move(items)}); }
  void put(uint32_t key) { memo_[key] = top(); }
  void get(uint32_t key);
  void append(PickleValues items);
  void set_items(const PickleValues& keys_and_values);
  void reduce();
  void build();
  void load_persistent() { push(host_.load_persistent(*pop())); }

  ByteReader reader_;
  PickleHost& host_;
  size_t start_ = 0;  // of the opcode at work
  Pickle pickle_;
  std::vector<Value> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint32_t, Value> memo_;
};

Pickle Machine::run() {
  if (reader_.value<uint8_t>() != kProto || reader_.value<uint8_t>() != 2) {
    fail("{}: expected a pickle of protocol 2", reader_.what());
  }
  for (;;) {
    start_ = reader_.position();
    const auto opcode = reader_.value<uint8_t>();
    if (opcode == kStop) break;
    step(opcode);
  }
  pickle_.root = pop();
  if (!stack_.empty() || !marks_.empty()) refuse("values are left over at the end");
  return std::move(pickle_);
}

void Machine::step(uint8_t opcode) {
  switch (opcode) {
    case kMark:
      return marks_.push_back(stack_.size());
    case kNone:
      return push(PickleNone{});
    case kNewTrue:
      return push(true);
    case kNewFalse:
      return push(false);
    case kBinInt:
      return push(int64_t{reader_.value<int32_t>()});
    case kBinInt1:
      return push(int64_t{reader_.value<uint8_t>()});
    case kBinInt2:
      return push(int64_t{reader_.value<uint16_t>()});
    case kLong1:
      return push_long();
    case kBinFloat:
      return push_float();
    case kBinUnicode:
      return push_text();
    case kGlobal:
      return push_global();
    case kEmptyTuple:
      return push_tuple({});
    case kTuple1:
      return push_tuple(pop_many(1));
    case kTuple2:
      return push_tuple(pop_many(2));
    case kTuple3:
      return push_tuple(pop_many(3));
    case kTuple:
      return push_tuple(pop_to_mark());
    case kEmptyList:
      return push(PickleList{});
    case kAppend:
      return append(pop_many(1));
    case kAppends:
      return append(pop_to_mark());
    case kEmptyDict:
      return push(PickleDict{});
    case kSetItem:
      return set_items(pop_many(2));
    case kSetItems:
      return set_items(pop_to_mark());
    case kBinPut:
      return put(reader_.value<uint8_t>());
    case kLongBinPut:
      return put(reader_.value<uint32_t>());
    case kBinGet:
      return get(reader_.value<uint8_t>());
    case kLongBinGet:
      return get(reader_.value<uint32_t>());
    case kReduce:
      return reduce();
    case kBuild:
      return build();
    case kBinPersId:
      return load_persistent();
    default:
      refuse("{} is none that torch.save writes", opcode_name(opcode));
  }
}

void Machine::push(PickleValue value) {
  if (pickle_.values.size() == kMaxValues) refuse("more than {} values", kMaxValues);
  stack_.push_back(&pickle_.values.emplace_back(std::move(value)));
}

Machine::Value Machine::top() {
  if (stack_.size() == (marks_.empty() ? 0 : marks_.back())) refuse("takes a value where none is");
  return stack_.back();
}

Machine::Value Machine::pop() {
  const Value value = top();
  stack_.pop_back();
  return value;
}

PickleValues Machine::pop_many(size_t count) {
  PickleValues values(count);
  for (size_t i = count; i-- > 0;) values[i] = pop();
  return values;
}

PickleValues Machine::pop_to_mark() {
  if (marks_.empty()) refuse("takes values up to a mark where none is");
  PickleValues values(stack_.begin() + static_cast<ptrdiff_t>(marks_.back()), stack_.end());
  stack_.resize(marks_.back());
  marks_.pop_back();
  return values;
}

template <class T>
T& Machine::top_as(std::string_view expected) {
  T* value = top()->template as<T>();
  if (value == nullptr) refuse("expected {}, found {}", expected, top()->type_name());
  return *value;
}

void Machine::push_text() {
  const auto text = reader_.text(reader_.value<uint32_t>());
  if (!is_utf8(text)) refuse("a string that is not UTF-8: {}", quote(text));
  push(std::string(text));
}

// A little-endian two's complement number of any length.
void Machine::push_long() {
  const auto bytes = reader_.take(reader_.value<uint8_t>());
  if (bytes.size() > sizeof(int64_t)) refuse("an integer of more than 64 bits");
  const bool negative = !bytes.empty() && (bytes.back() & std::byte{0x80}) != std::byte{0};
  int64_t value = negative ? -1 : 0;
  std::copy(bytes.begin(), bytes.end(), std::as_writable_bytes(std::span(&value, 1)).begin());
  push(value);
}

// A big-endian double.
void Machine::push_float() {
  auto bytes = reader_.value<std::array<std::byte, sizeof(double)>>();
  std::reverse(bytes.begin(), bytes.end());
  push(std::bit_cast<double>(bytes));
}

void Machine::push_global() {
  const auto module = reader_.line();
  const auto attribute = reader_.line();
  std::string name = fmt::format("{}.{}", module, attribute);
  if (!host_.allows(name)) refuse("{} is not allowed", quote(name));
  push(PickleGlobal{std::move(name)});
}

void Machine::get(uint32_t key) {
  const auto found = memo_.find(key);
  if (found == memo_.end()) refuse("no value has been kept as {}", key);
  stack_.push_back(found->second);
}

void Machine::append(PickleValues items) {
  auto& list = top_as<PickleList>("a list").items;
  list.insert(list.end(), items.begin(), items.end());
}

void Machine::set_items(const PickleValues& keys_and_values) {
  if (keys_and_values.size() % 2 != 0) refuse("a key without a value");
  auto& dict = top_as<PickleDict>("a dict").items;
  for (size_t i = 0; i < keys_and_values.size(); i += 2) {
    dict.emplace_back(keys_and_values[i], keys_and_values[i + 1]);
  }
}

void Machine::reduce() {
  const auto arguments = pop();
  const auto callee = pop();
  const auto* global = callee->as<PickleGlobal>();
  const auto* tuple = arguments->as<PickleTuple>();
  if (global == nullptr) refuse("calls {}, expected a function", callee->type_name());
  if (tuple == nullptr) refuse("calls with {}, expected a tuple", arguments->type_name());
  push(host_.call(global->name, tuple->items));
}

// Attributes set on an object. On a state_dict, which is an OrderedDict, they are the versions of
// its modules: nothing a reader of tensors needs.
void Machine::build() {
  pop();
  top_as<PickleDict>("a dict");
}

}  // namespace

std::string_view PickleValue::type_name() const {
  static constexpr std::array<std::string_view, std::variant_size_v<variant>> kNames = {
      "None",    "a bool", "an integer", "a float",   "a string", "a global",
      "a tuple", "a list", "a dict",     "a storage", "a tensor"};
  return kNames[index()];
}

Pickle unpickle(std::span<const std::byte> bytes, const std::string& name, PickleHost& host) {
  return Machine(bytes, name, host).run();
}

}  // namespace elapse
