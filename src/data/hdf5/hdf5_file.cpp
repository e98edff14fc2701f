#include "data/hdf5/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "data/hdf5/driver.h"
#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::data {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are read as they lie in the file");

using base::ExitCode;
using base::fail;

constexpr int64_t kMaxAttributeBytes = 4096;

// Plug-ins and drivers named by the environment are other people's code.
void disarm_library() {
  for (const char* name : {"HDF5_PLUGIN_PATH", "HDF5_DRIVER", "HDF5_VOL_CONNECTOR"}) ::unsetenv(name);
  ::setenv("HDF5_PLUGIN_PRELOAD", "::", 1);
  H5dont_atexit();  // the library's own clean-up at exit walks whatever a damaged file left behind
  H5PLset_loading_state(0);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // what it has to say goes into our errors
}

// A move-only HDF5 identifier.
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

// The filters of chunks, in the order in which they are applied.
std::vector<Filter> read_filters(const PropertiesHandle& properties, int64_t element_bytes,
                                 const Where& where) {
  std::vector<Filter> filters;
  const auto add = [&](Filter filter) {
    if (std::ranges::count(filters, filter) != 0) where.refuse("has the same filter twice");
    filters.push_back(filter);
  };
  const int count = H5Pget_nfilters(properties.get());
  if (count < 0) where.refuse("has unreadable filters: {}", cause());
  for (int i = 0; i < count; ++i) {
    unsigned flags = 0, value = 0;
    std::size_t values = 1;
    const H5Z_filter_t filter = H5Pget_filter2(properties.get(), static_cast<unsigned>(i), &flags, &values,
                                               &value, 0, nullptr, nullptr);
    switch (filter) {
      case H5Z_FILTER_SHUFFLE:
        if (values != 1 || value != static_cast<uint64_t>(element_bytes))
          where.refuse("is shuffled as elements of {} bytes", value);
        add(Filter::kShuffle);
        break;
      case H5Z_FILTER_DEFLATE:
        add(Filter::kDeflate);
        break;
      case H5Z_FILTER_FLETCHER32:
        add(Filter::kFletcher32);
        break;
      default:
        where.refuse("has filter {}: only shuffle, deflate and fletcher32 are read", filter);
    }
  }
  return filters;
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

}  // namespace

struct Hdf5File::Impl {
  explicit Impl(const base::File& bytes) : source{bytes} {}

  DriverFile source;
  FileHandle file;  // closed before its source ends

  const std::filesystem::path& path() const { return source.bytes.path(); }
  Where where(const std::string& object) const { return {path(), object}; }

  DatasetHandle open(const std::string& name) const {
    require_hard_link(file.get(), name, where(name));
    DatasetHandle dataset(H5Dopen2(file.get(), name.c_str(), H5P_DEFAULT));
    if (!dataset) where(name).refuse("cannot be opened as a dataset: {}", cause());
    return dataset;
  }

  int64_t contiguous_offset(const DatasetHandle& dataset, int64_t bytes, const Where& at) const {
    if (bytes == 0) return 0;
    const haddr_t offset = H5Dget_offset(dataset.get());
    const hsize_t stored = H5Dget_storage_size(dataset.get());
    if (offset == HADDR_UNDEF || offset > static_cast<haddr_t>(std::numeric_limits<int64_t>::max()) ||
        stored != static_cast<hsize_t>(bytes)) {
      at.refuse("declares {} bytes and stores {}", bytes, stored);
    }
    return static_cast<int64_t>(offset);
  }

  // The library looks the chunk up and asks the driver for its bytes, which notes where they are.
  StoredChunk find_chunk(const DatasetHandle& dataset, int64_t first_element, const Where& at) {
    const hsize_t position = static_cast<hsize_t>(first_element);
    std::optional<FileRange> range;
    std::byte unused{};
    StoredChunk chunk;
    source.noted = &range;
    const herr_t status = H5Dread_chunk(dataset.get(), H5P_DEFAULT, &position, &chunk.skipped, &unused);
    source.noted = nullptr;
    if (status < 0 || !range) at.refuse("has no chunk for element {}: {}", first_element, cause());
    chunk.offset = range->offset;
    chunk.bytes = range->bytes;
    return chunk;
  }

  void read_chunks(const DatasetHandle& dataset, const PropertiesHandle& properties, ArrayLayout& array,
                   const Where& at) {
    hsize_t chunk = 0;
    if (H5Pget_chunk(properties.get(), 1, &chunk) != 1) at.refuse("has chunks that are not one-dimensional");
    if (chunk == 0 || chunk > static_cast<hsize_t>(kMaxChunkBytes / array.element_bytes)) {
      at.refuse("has chunks of {} elements, more than {} MiB", chunk, kMaxChunkBytes >> 20);
    }
    array.chunk_elements = static_cast<int64_t>(chunk);
    array.filters = read_filters(properties, array.element_bytes, at);
    const hsize_t bytes = static_cast<hsize_t>(array.size * array.element_bytes);
    const hsize_t stored = H5Dget_storage_size(dataset.get());
    if (bytes / kMaxCompression > stored) {
      at.refuse("declares {} bytes and stores {}: no data set is compressed that well", bytes, stored);
    }
    const int64_t count = base::ceil_div(array.size, array.chunk_elements);
    if (count > kMaxChunks) at.refuse("has {} chunks, more than {}", count, kMaxChunks);
    for (int64_t i = 0; i < count; ++i)
      array.chunks.push_back(find_chunk(dataset, i * array.chunk_elements, at));
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
    return {path(), object == "/" ? "attribute " + name : "attribute " + name + " of " + object};
  }
};

Hdf5File::Hdf5File(const base::File& bytes) : impl_(std::make_unique<Impl>(bytes)) {
  disarm_library();
  const PropertiesHandle access(driver_properties(impl_->source));
  FileHandle file(H5Fopen(kDriverFileName, H5F_ACC_RDONLY, access.get()));
  if (!file) {
    fail(ExitCode::kInvalidData, "{} is not a readable HDF5 file ({}): write it again with sft-prepare",
         path().string(), cause());
  }
  const PropertiesHandle creation(H5Fget_create_plist(file.get()));
  hsize_t user_block = 0;
  if (H5Pget_userblock(creation.get(), &user_block) < 0 || user_block != 0)
    impl_->where("the file").refuse("has a user block");
  impl_->file = std::move(file);
}

Hdf5File::~Hdf5File() = default;

const std::filesystem::path& Hdf5File::path() const {
  return impl_->path();
}

bool Hdf5File::has(const std::string& name) const {
  return link_exists(impl_->file.get(), name);
}

bool Hdf5File::has_attribute(const std::string& object, const std::string& name) const {
  return H5Aexists_by_name(impl_->file.get(), object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

int64_t Hdf5File::int_attribute(const std::string& object, const std::string& name) const {
  const Where where = impl_->attribute_where(object, name);
  const AttributeHandle attribute = impl_->open_attribute(object, name, where);
  const TypeHandle type(H5Aget_type(attribute.get()));
  if (H5Tequal(type.get(), H5T_STD_I64LE) <= 0) where.refuse("is not a little-endian int64");
  int64_t value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_INT64, &value) < 0) where.refuse("cannot be read: {}", cause());
  return value;
}

std::string Hdf5File::string_attribute(const std::string& object, const std::string& name) const {
  const Where where = impl_->attribute_where(object, name);
  const AttributeHandle attribute = impl_->open_attribute(object, name, where);
  const TypeHandle type(H5Aget_type(attribute.get()));
  return read_string(type.get(), kMaxAttributeBytes, where,
                     [&](char* out) { return H5Aread(attribute.get(), type.get(), out); });
}

std::string Hdf5File::string(const std::string& name, int64_t max_bytes) const {
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
ArrayLayout Hdf5File::array(const std::string& name) const {
  const Where where = impl_->where(name);
  const DatasetHandle dataset = impl_->open(name);
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
  ArrayLayout array{.element_bytes = sizeof(T), .size = static_cast<int64_t>(extent)};
  const PropertiesHandle properties(H5Dget_create_plist(dataset.get()));
  if (H5Pget_external_count(properties.get()) != 0) where.refuse("is stored in another file");
  switch (H5Pget_layout(properties.get())) {
    case H5D_CONTIGUOUS:
      array.offset = impl_->contiguous_offset(dataset, array.size * array.element_bytes, where);
      break;
    case H5D_CHUNKED:
      impl_->read_chunks(dataset, properties, array, where);
      break;
    default:
      where.refuse("is neither contiguous nor chunked");
  }
  return array;
}

template ArrayLayout Hdf5File::array<uint8_t>(const std::string&) const;
template ArrayLayout Hdf5File::array<int32_t>(const std::string&) const;
template ArrayLayout Hdf5File::array<int64_t>(const std::string&) const;

}  // namespace sft::data
