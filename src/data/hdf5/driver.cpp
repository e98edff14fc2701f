#include "data/hdf5/driver.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <memory>
#include <span>
#include <string_view>

#include "sft/base/error.h"

namespace sft::data {
namespace {

constexpr haddr_t kMaxAddress = std::numeric_limits<int64_t>::max();

struct Settings {
  DriverFile* file;
};

// The library casts this to H5FD_t and back.
struct OpenFile {
  H5FD_t library_part{};
  DriverFile* file = nullptr;
  haddr_t end_of_addresses = 0;
};

OpenFile* ours(H5FD_t* file) {
  return reinterpret_cast<OpenFile*>(file);
}
const OpenFile* ours(const H5FD_t* file) {
  return reinterpret_cast<const OpenFile*>(file);
}

H5FD_t* open_file(const char* name, unsigned flags, hid_t access, haddr_t) {
  const auto* settings = static_cast<const Settings*>(H5Pget_driver_info(access));
  if (settings == nullptr || (flags & H5F_ACC_RDWR) != 0) return nullptr;
  if (settings->file->is_open || std::string_view(name) != kDriverFileName) return nullptr;
  settings->file->is_open = true;
  auto file = std::make_unique<OpenFile>();
  file->file = settings->file;
  return &file.release()->library_part;
}

herr_t close_file(H5FD_t* file) {
  const std::unique_ptr<OpenFile> owned(ours(file));
  owned->file->is_open = false;
  return 0;
}

int compare_files(const H5FD_t* a, const H5FD_t* b) {
  return a < b ? -1 : a > b ? 1 : 0;
}

herr_t query_features(const H5FD_t*, unsigned long* features) {
  *features = 0;
  return 0;
}

haddr_t end_of_addresses(const H5FD_t* file, H5FD_mem_t) {
  return ours(file)->end_of_addresses;
}
herr_t set_end_of_addresses(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  ours(file)->end_of_addresses = address;
  return 0;
}
haddr_t end_of_file(const H5FD_t* file, H5FD_mem_t) {
  return static_cast<haddr_t>(ours(file)->file->bytes.size());
}

// Behind the end of the file there is nothing: the library's own driver gives zeros.
herr_t read_bytes(H5FD_t* file, H5FD_mem_t kind, hid_t, haddr_t address, std::size_t size, void* out) {
  const DriverFile& from = *ours(file)->file;
  if (address > kMaxAddress || size > kMaxAddress - address) return -1;
  const auto offset = static_cast<int64_t>(address);
  if (kind == H5FD_MEM_DRAW && from.noted != nullptr) {
    *from.noted = FileRange{offset, static_cast<int64_t>(size)};
    return 0;
  }
  try {
    from.bytes.read_at(offset, std::span(static_cast<std::byte*>(out), size));
    return 0;
  } catch (const base::Error&) {
    return -1;
  }
}

herr_t refuse_write(H5FD_t*, H5FD_mem_t, hid_t, haddr_t, std::size_t, const void*) {
  return -1;
}

H5FD_class_t driver_class() {
  H5FD_class_t driver{};
  driver.name = "sft-dist";
  driver.maxaddr = kMaxAddress;
  driver.fc_degree = H5F_CLOSE_WEAK;
  driver.fapl_size = sizeof(Settings);
  driver.open = open_file;
  driver.close = close_file;
  driver.cmp = compare_files;
  driver.query = query_features;
  driver.get_eoa = end_of_addresses;
  driver.set_eoa = set_end_of_addresses;
  driver.get_eof = end_of_file;
  driver.read = read_bytes;
  driver.write = refuse_write;
  constexpr H5FD_mem_t kMap[] = H5FD_FLMAP_DICHOTOMY;
  std::ranges::copy(kMap, driver.fl_map);
  return driver;
}

}  // namespace

hid_t driver_properties(DriverFile& file) {
  static const H5FD_class_t driver = driver_class();
  static const hid_t registered = H5FDregister(&driver);
  const Settings settings{&file};
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  if (H5Pset_driver(access, registered, &settings) < 0)
    base::fail(base::ExitCode::kInternal, "HDF5 refuses the file driver");
  return access;
}

}  // namespace sft::data
