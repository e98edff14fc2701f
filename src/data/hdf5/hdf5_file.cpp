#include "data/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are read as they lie in the file");

using base::ExitCode;
using base::fail;

constexpr int64_t kMaxChunkBytes = int64_t{64} << 20;
constexpr int64_t kMaxCompression = 1100;  // deflate reaches at most 1032
constexpr int64_t kMaxAttributeBytes = 4096;

// Plug-ins and drivers named by the environment are other people's code.
void disarm_library() {
  for (const char* name : {"HDF5_PLUGIN_PATH", "HDF5_DRIVER", "HDF5_VOL_CONNECTOR"}) ::unsetenv(name);
  ::setenv("HDF5_PLUGIN_PRELOAD", "::", 1);
  H5dont_atexit();  // the library's own clean-up at exit walks whatever a damaged file left behind
  H5PLset_loading_state(0);
}

// Held around every use of the library, which is silenced: its messages go into our errors.
class Session {
 public:
  Session() : lock_(mutex()) {
    static std::once_flag disarmed;
    std::call_once(disarmed, disarm_library);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  std::lock_guard<std::mutex> lock_;
};

// A move-only HDF5 identifier. Closed under the caller's Session.
template <herr_t (*Close)(hid_t)>
class Handle {
 public:
  explicit Handle(hid_t id = -1) : id_(id) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(id_, other.id_);
    return *this;
  }
  ~Handle() { reset(); }
  void reset() {
    if (id_ >= 0) Close(std::exchange(id_, -1));
  }
  hid_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }

 private:
  hid_t id_;
};
using FileHandle = Handle<H5Fclose>;
using DatasetHandle = Handle<H5Dclose>;
using AttributeHandle = Handle<H5Aclose>;
using SpaceHandle = Handle<H5Sclose>;
using TypeHandle = Handle<H5Tclose>;
using PropertiesHandle = Handle<H5Pclose>;

// The library's innermost message: the cause.
std::string cause() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        std::string& message = *static_cast<std::string*>(out);
        if (message.empty() && error->desc != nullptr) message = error->desc;
        return 0;
      },
      &text);
  return text.empty() ? "no cause given" : log::printable(text);
}

template <typename T>
hid_t file_type() {
  if constexpr (std::is_same_v<T, uint8_t>) return H5T_STD_U8LE;
  if constexpr (std::is_same_v<T, int32_t>) return H5T_STD_I32LE;
  if constexpr (std::is_same_v<T, int64_t>) return H5T_STD_I64LE;
}
template <typename T>
const char* type_name() {
  return std::is_same_v<T, uint8_t> ? "uint8" : std::is_same_v<T, int32_t> ? "int32" : "int64";
}

// What messages call an object.
struct Where {
  const std::filesystem::path& path;
  std::string object;

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ExitCode::kInvalidData, "{}: {} {}", path.string(), object,
         fmt::format(format, std::forward<Args>(args)...));
  }
};

bool link_exists(hid_t file, const std::string& name) {
  return H5Lexists(file, name.c_str(), H5P_DEFAULT) > 0;
}

void require_hard_link(hid_t file, const std::string& name, const Where& where) {
  H5L_info_t info{};
  if (!link_exists(file, name)) where.refuse("is missing");
  if (H5Lget_info(file, name.c_str(), &info, H5P_DEFAULT) < 0)
    where.refuse("cannot be looked up: {}", cause());
  if (info.type != H5L_TYPE_HARD) where.refuse("is not a hard link: links to other places are not followed");
}

// Storage inside this file, in a form the reader knows.
void require_plain_storage(const PropertiesHandle& properties, int64_t element_bytes, const Where& where) {
  const H5D_layout_t layout = H5Pget_layout(properties.get());
  if (layout != H5D_CONTIGUOUS && layout != H5D_CHUNKED) where.refuse("is neither contiguous nor chunked");
  if (H5Pget_external_count(properties.get()) != 0) where.refuse("is stored in another file");
  if (layout == H5D_CHUNKED) {
    hsize_t chunk = 0;
    if (H5Pget_chunk(properties.get(), 1, &chunk) != 1)
      where.refuse("has chunks that are not one-dimensional");
    if (chunk > static_cast<hsize_t>(kMaxChunkBytes / element_bytes)) {
      where.refuse("has chunks of {} elements, more than {} MiB", chunk, kMaxChunkBytes >> 20);
    }
  }
  int deflates = 0;
  const int filters = H5Pget_nfilters(properties.get());
  if (filters < 0) where.refuse("has unreadable filters: {}", cause());
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0;
    std::size_t values = 0;
    const H5Z_filter_t filter = H5Pget_filter2(properties.get(), static_cast<unsigned>(i), &flags, &values,
                                               nullptr, 0, nullptr, nullptr);
    deflates += filter == H5Z_FILTER_DEFLATE;
    const bool known =
        filter == H5Z_FILTER_SHUFFLE || filter == H5Z_FILTER_DEFLATE || filter == H5Z_FILTER_FLETCHER32;
    if (!known || deflates > 1)
      where.refuse("has filter {}: only shuffle, deflate (once) and fletcher32 are read", filter);
  }
}

std::string read_string(hid_t type, int64_t max_bytes, const Where& where, auto&& read) {
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0)
    where.refuse("is not a fixed-length string");
  const std::size_t bytes = H5Tget_size(type);
  if (bytes == 0 || bytes > static_cast<std::size_t>(max_bytes)) {
    where.refuse("is a string of {} bytes; 1 to {} are allowed", bytes, max_bytes);
  }
  std::string text(bytes, '\0');
  if (read(text.data()) < 0) where.refuse("cannot be read: {}", cause());
  text.resize(std::min(bytes, text.find('\0')));
  return text;
}

// Bytes of a contiguous dataset: [offset, offset + bytes) of the file.
int64_t contiguous_offset(const DatasetHandle& dataset, int64_t bytes, int64_t file_bytes,
                          const Where& where) {
  if (bytes == 0) return 0;
  const haddr_t offset = H5Dget_offset(dataset.get());
  const hsize_t stored = H5Dget_storage_size(dataset.get());
  if (offset == HADDR_UNDEF || stored != static_cast<hsize_t>(bytes)) {
    where.refuse("declares {} bytes and stores {}", bytes, stored);
  }
  if (bytes > file_bytes || offset > static_cast<haddr_t>(file_bytes - bytes)) {
    where.refuse("does not lie inside the file: {} bytes from byte {}; the file has {}", bytes, offset,
                 file_bytes);
  }
  return static_cast<int64_t>(offset);
}

}  // namespace

struct Hdf5File::Impl {
  std::filesystem::path path;
  std::shared_ptr<const base::File> bytes;
  FileHandle file;

  Where where(const std::string& object) const { return {path, object}; }

  DatasetHandle open(const std::string& name) const {
    require_hard_link(file.get(), name, where(name));
    const PropertiesHandle access(H5Pcreate(H5P_DATASET_ACCESS));
    // Rows are read in random order: the cache holds at least one chunk of any size that is allowed.
    H5Pset_chunk_cache(access.get(), H5D_CHUNK_CACHE_NSLOTS_DEFAULT, kMaxChunkBytes,
                       H5D_CHUNK_CACHE_W0_DEFAULT);
    DatasetHandle dataset(H5Dopen2(file.get(), name.c_str(), access.get()));
    if (!dataset) where(name).refuse("cannot be opened as a dataset: {}", cause());
    return dataset;
  }

  AttributeHandle open_attribute(const std::string& object, const std::string& name, const Where& at) const {
    if (object != "/") require_hard_link(file.get(), object, where(object));
    AttributeHandle attribute(
        H5Aopen_by_name(file.get(), object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT));
    if (!attribute) at.refuse("is missing");
    const SpaceHandle space(H5Aget_space(attribute.get()));
    if (H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) at.refuse("is not a scalar");
    return attribute;
  }
  Where attribute_where(const std::string& object, const std::string& name) const {
    return {path, object == "/" ? "attribute " + name : "attribute " + name + " of " + object};
  }
};

Hdf5File::Hdf5File(const std::filesystem::path& path) : impl_(std::make_unique<Impl>()) {
  impl_->path = path;
  impl_->bytes = std::make_shared<const base::File>(path, base::File::Mode::kRead);
  const Session session;
  const PropertiesHandle access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_fapl_sec2(access.get());
  H5Pset_file_locking(access.get(), false, true);  // many ranks read one file, not every file system locks
  FileHandle file(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (!file) {
    fail(ExitCode::kInvalidData, "{} is not a readable HDF5 file ({}): write it again with sft-prepare",
         path.string(), cause());
  }
  const PropertiesHandle creation(H5Fget_create_plist(file.get()));
  hsize_t user_block = 0;
  if (H5Pget_userblock(creation.get(), &user_block) < 0 || user_block != 0)
    impl_->where("the file").refuse("has a user block");
  impl_->file = std::move(file);
}

Hdf5File::~Hdf5File() {
  const Session session;
  impl_->file.reset();
}

const std::filesystem::path& Hdf5File::path() const {
  return impl_->path;
}

bool Hdf5File::has(const std::string& name) const {
  const Session session;
  return link_exists(impl_->file.get(), name);
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  const Session session;
  return H5Aexists_by_name(impl_->file.get(), object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

int64_t Hdf5File::int_attribute(const std::string& object, const std::string& name) const {
  const Session session;
  const Where where = impl_->attribute_where(object, name);
  const AttributeHandle attribute = impl_->open_attribute(object, name, where);
  const TypeHandle type(H5Aget_type(attribute.get()));
  if (H5Tequal(type.get(), H5T_STD_I64LE) <= 0) where.refuse("is not a little-endian int64");
  int64_t value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) where.refuse("cannot be read: {}", cause());
  return value;
}

std::string Hdf5File::string_attribute(const std::string& object, const std::string& name) const {
  const Session session;
  const Where where = impl_->attribute_where(object, name);
  const AttributeHandle attribute = impl_->open_attribute(object, name, where);
  const TypeHandle type(H5Aget_type(attribute.get()));
  return read_string(type.get(), kMaxAttributeBytes, where,
                     [&](char* out) { return H5Aread(attribute.get(), type.get(), out); });
}

std::string Hdf5File::string(const std::string& name, int64_t max_bytes) const {
  const Session session;
  const Where where = impl_->where(name);
  const DatasetHandle dataset = impl_->open(name);
  const TypeHandle type(H5Dget_type(dataset.get()));
  const SpaceHandle space(H5Dget_space(dataset.get()));
  const PropertiesHandle properties(H5Dget_create_plist(dataset.get()));
  if (H5Sget_simple_extent_type(space.get()) != H5S_SCALAR) where.refuse("is not a scalar");
  if (H5Pget_layout(properties.get()) != H5D_CONTIGUOUS) where.refuse("is not contiguous");
  if (H5Pget_external_count(properties.get()) != 0) where.refuse("is stored in another file");
  return read_string(type.get(), max_bytes, where, [&](char* out) {
    return H5Dread(dataset.get(), type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, out);
  });
}

template <typename T>
struct Hdf5Array<T>::Chunked {
  DatasetHandle dataset;
  int64_t file_bytes;
  ~Chunked() {
    const Session session;
    dataset.reset();
  }
};

template <typename T>
Hdf5Array<T>::Hdf5Array() = default;
template <typename T>
Hdf5Array<T>::Hdf5Array(Hdf5Array&&) noexcept = default;
template <typename T>
Hdf5Array<T>& Hdf5Array<T>::operator=(Hdf5Array&&) noexcept = default;
template <typename T>
Hdf5Array<T>::~Hdf5Array() = default;

template <typename T>
Hdf5Array<T> Hdf5File::array(const std::string& name) const {
  const Session session;
  const Where where = impl_->where(name);
  DatasetHandle dataset = impl_->open(name);
  const TypeHandle type(H5Dget_type(dataset.get()));
  if (H5Tequal(type.get(), file_type<T>()) <= 0) where.refuse("is not a little-endian {}", type_name<T>());
  const SpaceHandle space(H5Dget_space(dataset.get()));
  hsize_t extent = 0;
  if (H5Sget_simple_extent_ndims(space.get()) != 1) where.refuse("is not one-dimensional");
  if (H5Sget_simple_extent_dims(space.get(), &extent, nullptr) != 1)
    where.refuse("has no extent: {}", cause());
  if (extent > static_cast<hsize_t>(std::numeric_limits<int64_t>::max()) / sizeof(T)) {
    where.refuse("declares {} elements", extent);
  }
  const PropertiesHandle properties(H5Dget_create_plist(dataset.get()));
  require_plain_storage(properties, sizeof(T), where);

  Hdf5Array<T> array;
  array.name_ = name;
  array.size_ = static_cast<int64_t>(extent);
  array.file_ = impl_->bytes;
  const int64_t bytes = array.size_ * static_cast<int64_t>(sizeof(T));
  if (H5Pget_layout(properties.get()) == H5D_CONTIGUOUS) {
    array.file_offset_ = contiguous_offset(dataset, bytes, impl_->bytes->size(), where);
    return array;
  }
  const hsize_t stored = H5Dget_storage_size(dataset.get());
  if (static_cast<hsize_t>(bytes) / kMaxCompression > stored) {
    where.refuse("declares {} bytes and stores {}: no data set is compressed that well", bytes, stored);
  }
  array.chunked_.reset(new typename Hdf5Array<T>::Chunked{std::move(dataset), impl_->bytes->size()});
  return array;
}

template <typename T>
void Hdf5Array<T>::read(int64_t first, std::span<T> out) const {
  if (out.empty()) return;
  if (!chunked_) {
    file_->read_at(file_offset_ + first * static_cast<int64_t>(sizeof(T)), std::as_writable_bytes(out));
    return;
  }
  const Session session;
  const Where where{file_->path(), name_};
  // Behind the end of a file the library reads zeros.
  if (file_->size() != chunked_->file_bytes)
    where.refuse("cannot be read: the file's size changed since it was opened");
  const hsize_t start = static_cast<hsize_t>(first), count = out.size();
  const SpaceHandle memory(H5Screate_simple(1, &count, nullptr));
  const SpaceHandle space(H5Dget_space(chunked_->dataset.get()));
  if (H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &count, nullptr) < 0 ||
      H5Dread(chunked_->dataset.get(), file_type<T>(), memory.get(), space.get(), H5P_DEFAULT, out.data()) <
          0) {
    where.refuse("cannot be read from element {} on: {}", first, cause());
  }
}

template class Hdf5Array<uint8_t>;
template class Hdf5Array<int32_t>;
template class Hdf5Array<int64_t>;
template Hdf5Array<uint8_t> Hdf5File::array(const std::string&) const;
template Hdf5Array<int32_t> Hdf5File::array(const std::string&) const;
template Hdf5Array<int64_t> Hdf5File::array(const std::string&) const;

}  // namespace sft::data
