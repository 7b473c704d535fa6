// SPDX-License-Identifier: Apache-2.0
#include "elapse/io/pytorch.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "elapse/io/bytes.h"
#include "elapse/io/file.h"
#include "elapse/io/messages.h"
#include "elapse/io/unpickler.h"
#include "elapse/io/zip.h"

namespace elapse {
namespace {

constexpr std::string_view kOrderedDict = "collections.OrderedDict";
constexpr std::string_view kRebuildTensor = "torch._utils._rebuild_tensor_v2";
constexpr std::string_view kRebuildParameter = "torch._utils._rebuild_parameter";
constexpr std::array kFunctions = {kOrderedDict, kRebuildTensor, kRebuildParameter};

constexpr std::array<std::pair<std::string_view, DType>, 7> kStorages = {
    {{"torch.DoubleStorage", DType::f64},
     {"torch.FloatStorage", DType::f32},
     {"torch.HalfStorage", DType::f16},
     {"torch.BFloat16Storage", DType::bf16},
     {"torch.LongStorage", DType::i64},
     {"torch.IntStorage", DType::i32},
     {"torch.ByteStorage", DType::u8}}};

// Copies of strided views may take this many times the file's size, as many views can share few
// bytes.
constexpr size_t kMaxCopies = 4;

const DType* find_storage(std::string_view global) {
  for (const auto& [name, dtype] : kStorages) {
    if (name == global) return &dtype;
  }
  return nullptr;
}

// The archive's files lie in one folder, named after the file that was saved to.
std::string find_folder(const ZipEntries& entries, const std::string& name) {
  static constexpr std::string_view kSuffix = "/data.pkl";
  for (const auto& [path, entry] : entries) {
    const size_t slash = path.find('/');
    if (slash != path.npos && path.substr(slash) == kSuffix) return path.substr(0, slash + 1);
  }
  fail("{}: expected an archive of torch.save, found none of its data.pkl", name);
}

// A view of a storage, sizes and strides in elements.
struct View {
  Shape shape;
  std::vector<int64_t> strides;
  int64_t offset;
};

bool is_contiguous(const View& view) {
  int64_t expected = 1;
  for (int i = view.shape.rank() - 1; i >= 0; --i) {
    if (view.shape[i] != 1 && view.strides[static_cast<size_t>(i)] != expected) return false;
    expected *= view.shape[i];
  }
  return true;
}

// Throws unless all of the view's elements lie in a storage of `numel`.
void check_bounds(const View& view, int64_t numel, const std::string& what) {
  int64_t last = view.offset;
  bool overflow = view.offset < 0;
  for (int i = 0; i < view.shape.rank(); ++i) {
    const int64_t stride = view.strides[static_cast<size_t>(i)];
    int64_t span = 0;
    overflow |= stride < 0 || __builtin_mul_overflow(stride, view.shape[i] - 1, &span);
    overflow |= __builtin_add_overflow(last, span, &last);
  }
  const bool empty = view.shape.numel() == 0;
  ELAPSE_CHECK(!overflow && (empty ? view.offset <= numel : last < numel),
               "{}: a tensor {} from element {} on does not fit its storage of {} elements", what,
               view.shape.str(), view.offset, numel);
}

// Copies the elements of `view`, row by row of its innermost axis.
void gather(const View& view, int64_t element_bytes, const std::byte* from, std::byte* to,
            int axis = 0) {
  if (axis == view.shape.rank()) {
    std::copy_n(from, element_bytes, to);
    return;
  }
  const int64_t stride = view.strides[static_cast<size_t>(axis)] * element_bytes;
  int64_t step = element_bytes;
  for (int i = axis + 1; i < view.shape.rank(); ++i) step *= view.shape[i];
  for (int64_t i = 0; i < view.shape[axis]; ++i) {
    gather(view, element_bytes, from + i * stride, to + i * step, axis + 1);
  }
}

// What the pickle of a checkpoint may name: containers, storages in the archive, tensors on them.
class Checkpoint final : public PickleHost {
 public:
  Checkpoint(SharedBytes file, const std::string& name)
      : name_(name),
        owner_(std::move(file.owner)),
        entries_(read_zip(file.bytes, name)),
        folder_(find_folder(entries_, name)),
        copies_left_(kMaxCopies * file.bytes.size()) {}

  std::vector<NamedTensor> tensors();

  bool allows(std::string_view global) const override;
  PickleValue call(std::string_view global, const PickleValues& arguments) override;
  PickleValue load_persistent(const PickleValue& id) override;

 private:
  const ZipEntry& entry(const std::string& path) const;
  void check_byte_order() const;
  const SharedBytes& storage_bytes(const std::string& key, DType dtype, int64_t numel);
  Tensor rebuild_tensor(const PickleValues& arguments);
  Tensor view_tensor(const PickleStorage& storage, const View& view);
  SharedBytes gathered(const PickleStorage& storage, const View& view);
  std::vector<int64_t> integers(const PickleValue& tuple) const;
  template <class T>
  const T& expect(const PickleValue& value, std::string_view expected) const;

  std::string name_;
  std::shared_ptr<const void> owner_;
  ZipEntries entries_;
  std::string folder_;
  size_t copies_left_;  // bytes
  std::map<std::string, SharedBytes> storages_;
};

const ZipEntry& Checkpoint::entry(const std::string& path) const {
  const auto found = entries_.find(folder_ + path);
  ELAPSE_CHECK(found != entries_.end(), "{}: expected an entry {}, found none", name_,
               quote(folder_ + path));
  return found->second;
}

template <class T>
const T& Checkpoint::expect(const PickleValue& value, std::string_view expected) const {
  const T* found = value.as<T>();
  ELAPSE_CHECK(found != nullptr, "{}: expected {}, found {}", name_, expected, value.type_name());
  return *found;
}

// Absent from the files of PyTorch before 2.1, which were little-endian on all common machines.
void Checkpoint::check_byte_order() const {
  const auto found = entries_.find(folder_ + "byteorder");
  if (found == entries_.end()) return;
  const auto order = as_text(found->second.bytes);
  ELAPSE_CHECK(order == "little", "{}: expected byte order \"little\", found {}", name_,
               quote(order));
}

std::vector<NamedTensor> Checkpoint::tensors() {
  check_byte_order();
  const ZipEntry& data = entry("data.pkl");
  check_crc32(data, name_ + ": data.pkl");
  const Pickle pickle = unpickle(data.bytes, name_ + ": data.pkl", *this);
  std::vector<NamedTensor> tensors;
  std::set<std::string_view> names;
  for (const auto& [key, value] : expect<PickleDict>(*pickle.root, "a dict of tensors").items) {
    const auto& name = expect<std::string>(*key, "a string as a tensor's name");
    const bool is_new = names.insert(name).second;
    ELAPSE_CHECK(is_new, "{}: tensor {} occurs twice", name_, quote(name));
    const auto* tensor = value->as<Tensor>();
    ELAPSE_CHECK(tensor != nullptr, "{}: entry {}: expected a tensor, found {}", name_, quote(name),
                 value->type_name());
    tensors.push_back({name, *tensor});
  }
  return tensors;
}

bool Checkpoint::allows(std::string_view global) const {
  return std::find(kFunctions.begin(), kFunctions.end(), global) != kFunctions.end() ||
         find_storage(global) != nullptr;
}

PickleValue Checkpoint::call(std::string_view global, const PickleValues& arguments) {
  if (global == kRebuildTensor) return rebuild_tensor(arguments);
  if (global == kRebuildParameter && arguments.size() == 3) {  // data, requires_grad, hooks
    return expect<Tensor>(*arguments[0], "a parameter's tensor");
  }
  if (global == kOrderedDict && arguments.empty()) return PickleDict{};
  fail("{}: a call of {} with {} arguments is not allowed", name_, global, arguments.size());
}

// ("storage", type, key, device, number of elements)
PickleValue Checkpoint::load_persistent(const PickleValue& id) {
  const auto& items = expect<PickleTuple>(id, "a persistent id that is a tuple").items;
  ELAPSE_CHECK(items.size() == 5, "{}: expected a persistent id of 5 items, found {}", name_,
               items.size());
  const auto& kind = expect<std::string>(*items[0], "a persistent id's kind");
  ELAPSE_CHECK(kind == "storage", "{}: expected a persistent id of kind \"storage\", found {}",
               name_, quote(kind));
  const auto& type = expect<PickleGlobal>(*items[1], "a storage's type").name;
  const DType* dtype = find_storage(type);
  ELAPSE_CHECK(dtype != nullptr, "{}: expected a storage's type, found {}", name_, type);
  const auto& key = expect<std::string>(*items[2], "a storage's key");
  const auto numel = expect<int64_t>(*items[4], "a storage's number of elements");
  return PickleStorage{*dtype, storage_bytes(key, *dtype, numel)};
}

const SharedBytes& Checkpoint::storage_bytes(const std::string& key, DType dtype, int64_t numel) {
  const auto bytes = entry("data/" + key).bytes;
  int64_t expected = 0;
  const bool overflow = __builtin_mul_overflow(numel, size_of(dtype), &expected);
  ELAPSE_CHECK(!overflow && numel >= 0 && static_cast<size_t>(expected) == bytes.size(),
               "{}: storage {}: expected {} elements {}, found {} bytes", name_, quote(key), numel,
               name_of(dtype), bytes.size());
  const auto found = storages_.find(key);
  if (found != storages_.end()) return found->second;
  return storages_.emplace(key, aligned({bytes, owner_}, sizeof(int64_t))).first->second;
}

std::vector<int64_t> Checkpoint::integers(const PickleValue& tuple) const {
  std::vector<int64_t> values;
  for (const auto* item : expect<PickleTuple>(tuple, "a tensor's sizes or strides").items) {
    values.push_back(expect<int64_t>(*item, "a tensor's size or stride"));
  }
  return values;
}

// (storage, offset, sizes, strides, requires_grad, hooks); a seventh argument would negate or
// conjugate the elements.
Tensor Checkpoint::rebuild_tensor(const PickleValues& arguments) {
  ELAPSE_CHECK(arguments.size() == 6, "{}: expected 6 arguments to {}, found {}", name_,
               kRebuildTensor, arguments.size());
  const auto& storage = expect<PickleStorage>(*arguments[0], "a tensor's storage");
  const auto sizes = integers(*arguments[2]);
  const View view{checked_shape(sizes, storage.dtype, [&] { return name_; }),
                  integers(*arguments[3]), expect<int64_t>(*arguments[1], "a tensor's offset")};
  ELAPSE_CHECK(view.strides.size() == sizes.size(),
               "{}: expected {} strides for a tensor {}, found {}", name_, sizes.size(),
               view.shape.str(), view.strides.size());
  return view_tensor(storage, view);
}

Tensor Checkpoint::view_tensor(const PickleStorage& storage, const View& view) {
  const int64_t element_bytes = size_of(storage.dtype);
  const auto& [bytes, owner] = storage.data;
  check_bounds(view, static_cast<int64_t>(bytes.size()) / element_bytes, name_);
  const SharedBytes rest{bytes.subspan(static_cast<size_t>(view.offset * element_bytes)), owner};
  const bool as_it_lies = view.shape.numel() == 0 || is_contiguous(view);
  return wrap(as_it_lies ? rest : gathered({storage.dtype, rest}, view), storage.dtype, view.shape);
}

// The elements of `view` (without its offset) in order.
SharedBytes Checkpoint::gathered(const PickleStorage& storage, const View& view) {
  const int64_t element_bytes = size_of(storage.dtype);
  const auto bytes = static_cast<size_t>(view.shape.numel() * element_bytes);
  ELAPSE_CHECK(bytes <= copies_left_, "{}: its strided tensors take more than {} times its size",
               name_, kMaxCopies);
  copies_left_ -= bytes;
  Pool pool(host_memory());
  auto memory = pool.allocate(static_cast<int64_t>(bytes));
  auto* data = static_cast<std::byte*>(memory.get());
  gather(view, element_bytes, storage.data.bytes.data(), data);
  return {{data, bytes}, std::move(memory)};
}

}  // namespace

std::vector<NamedTensor> parse_pytorch(std::span<const std::byte> bytes, const std::string& name,
                                       std::shared_ptr<const void> owner) {
  const bool is_bare_pickle = !bytes.empty() && bytes[0] == std::byte{0x80};
  ELAPSE_CHECK(!is_bare_pickle,
               "{}: expected a zip archive, found a pickle as PyTorch before 1.6 saved it; save it "
               "again with a newer one",
               name);
  return Checkpoint({bytes, std::move(owner)}, name).tensors();
}

std::vector<NamedTensor> open_pytorch(const std::string& path) {
  auto file = MappedFile::open(path);
  return parse_pytorch(file->bytes(), path, file);
}

}  // namespace elapse
