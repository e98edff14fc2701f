// The safetensors container: an 8-byte little-endian length, a JSON header, the tensors' bytes without gaps.
#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"
#include "sft/model/safetensors.h"

namespace sft::model {
namespace {

using base::ExitCode;
using base::fail;
using log::printable;
using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors files are little-endian");

constexpr int64_t kPrefixBytes = 8;
constexpr int64_t kMaxHeaderBytes = 100'000'000;
constexpr int64_t kDataAlignment = 64;
constexpr const char* kMetadataKey = "__metadata__";

constexpr std::pair<std::string_view, int64_t> kDtypeBits[] = {
    {"BOOL", 8}, {"U8", 8},   {"I8", 8},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"I16", 16},
    {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32},    {"U32", 32},    {"F32", 32},    {"I64", 64},
    {"U64", 64}, {"F64", 64}, {"C64", 64},  {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},
};

std::optional<int64_t> dtype_bits(std::string_view dtype) {
  for (const auto& [name, bits] : kDtypeBits) {
    if (name == dtype) return bits;
  }
  return std::nullopt;
}

// Bytes of a tensor, or nothing when the product overflows or is no whole number of bytes.
std::optional<int64_t> tensor_bytes(const std::vector<int64_t>& shape, int64_t bits_per_element) {
  std::optional<int64_t> bits = bits_per_element;
  for (const int64_t extent : shape) {
    bits = base::checked_mul(*bits, extent);
    if (!bits) return std::nullopt;
  }
  return *bits % 8 == 0 ? std::optional(*bits / 8) : std::nullopt;
}

// What a message about one tensor starts with, and the checks on its JSON description.
class EntryParser {
 public:
  EntryParser(const std::filesystem::path& file, const std::string& tensor)
      : where_(fmt::format("{}: tensor '{}'", file.string(), printable(tensor))), tensor_(tensor) {}

  SafetensorsEntry parse(const json& description) const {
    if (!description.is_object()) refuse("is not described by an object");
    for (const auto& [key, value] : description.items()) {
      if (key != "dtype" && key != "shape" && key != "data_offsets") {
        refuse(fmt::format("has an unknown field '{}'", printable(key)));
      }
    }
    SafetensorsEntry entry;
    entry.name = tensor_;
    const json& dtype = field(description, "dtype");
    if (!dtype.is_string()) refuse("has a dtype that is not a string");
    entry.dtype = dtype.get<std::string>();
    const std::optional<int64_t> bits = dtype_bits(entry.dtype);
    if (!bits) refuse(fmt::format("has the unknown dtype '{}'", printable(entry.dtype)));
    entry.shape = integers(field(description, "shape"), "shape");
    const std::vector<int64_t> offsets = integers(field(description, "data_offsets"), "data_offsets");
    if (offsets.size() != 2) refuse("does not have two data_offsets");
    entry.begin = offsets[0];
    entry.end = offsets[1];
    if (entry.end < entry.begin) refuse("ends before it begins");
    const std::optional<int64_t> bytes = tensor_bytes(entry.shape, *bits);
    if (!bytes) refuse("has a shape whose size is not a whole number of bytes below 2^63");
    if (*bytes != entry.end - entry.begin) {
      refuse(fmt::format("has {} bytes by its shape and {} by its data_offsets", *bytes,
                         entry.end - entry.begin));
    }
    return entry;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ExitCode::kInvalidData, "{} {}", where_, what);
  }

  const json& field(const json& description, const char* name) const {
    const auto found = description.find(name);
    if (found == description.end()) refuse(fmt::format("has no {}", name));
    return *found;
  }

  std::vector<int64_t> integers(const json& list, const char* name) const {
    if (!list.is_array()) refuse(fmt::format("has a {} that is not a list", name));
    std::vector<int64_t> values;
    for (const json& item : list) {
      if (!item.is_number_unsigned() || item.get<uint64_t>() > uint64_t{INT64_MAX}) {
        refuse(fmt::format("has a {} that is not a list of integers between 0 and 2^63 - 1", name));
      }
      values.push_back(item.get<int64_t>());
    }
    return values;
  }

  std::string where_;
  const std::string& tensor_;
};

std::map<std::string, std::string> parse_metadata(const std::filesystem::path& file, const json& metadata) {
  if (!metadata.is_object())
    fail(ExitCode::kInvalidData, "{}: {} is not an object", file.string(), kMetadataKey);
  std::map<std::string, std::string> result;
  for (const auto& [key, value] : metadata.items()) {
    if (!value.is_string()) {
      fail(ExitCode::kInvalidData, "{}: {} '{}' is not a string", file.string(), kMetadataKey,
           printable(key));
    }
    result[key] = value.get<std::string>();
  }
  return result;
}

// The tensors cover the data from its first byte to its last, one after the other.
void check_layout(const std::filesystem::path& file, const SafetensorsHeader& header, int64_t file_size) {
  int64_t position = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != position) {
      fail(ExitCode::kInvalidData,
           "{}: tensor '{}' begins at byte {} of the data, {} byte {} where the one before it ends",
           file.string(), printable(entry.name), entry.begin, entry.begin < position ? "before" : "after",
           position);
    }
    position = entry.end;
  }
  if (position != file_size - header.data_start) {
    fail(ExitCode::kInvalidData,
         "{}: the tensors end at byte {} of the data, the file has {}: it is truncated or has extra bytes",
         file.string(), position, file_size - header.data_start);
  }
}

SafetensorsHeader parse_header(const std::filesystem::path& file, const std::string& text,
                               int64_t file_size) {
  if (!text.starts_with('{'))
    fail(ExitCode::kInvalidData, "{}: the header does not start with '{{'", file.string());
  const json parsed =
      base::parse_json(text, file.string() + ": header", {.bytes = kMaxHeaderBytes, .depth = 8});
  SafetensorsHeader header;
  header.data_start = kPrefixBytes + static_cast<int64_t>(text.size());
  for (const auto& [name, description] : parsed.items()) {
    if (name == kMetadataKey) {
      header.metadata = parse_metadata(file, description);
    } else {
      header.entries.push_back(EntryParser(file, name).parse(description));
    }
  }
  std::ranges::stable_sort(header.entries, {},
                           [](const SafetensorsEntry& e) { return std::pair(e.begin, e.end); });
  check_layout(file, header, file_size);
  return header;
}

template <typename Source>
SafetensorsHeader read_header(const Source& source) {
  const int64_t file_size = source.size();
  if (file_size < kPrefixBytes) {
    fail(ExitCode::kInvalidData, "{}: {} bytes are too few for a safetensors file", source.path().string(),
         file_size);
  }
  uint64_t length = 0;
  source.read_at(0, std::as_writable_bytes(std::span(&length, 1)));
  if (length > uint64_t{kMaxHeaderBytes} || static_cast<int64_t>(length) > file_size - kPrefixBytes) {
    fail(ExitCode::kInvalidData,
         "{}: a header of {} bytes does not fit ({} in the file, at most {} are allowed)",
         source.path().string(), length, file_size - kPrefixBytes, kMaxHeaderBytes);
  }
  std::string text(length, '\0');
  source.read_at(kPrefixBytes, std::as_writable_bytes(std::span(text)));
  return parse_header(source.path(), text, file_size);
}

}  // namespace

SafetensorsHeader read_safetensors_header(const ByteSource& file) {
  return read_header(file);
}
SafetensorsHeader read_safetensors_header(const base::File& file) {
  return read_header(file);
}

std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries,
                                    const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  if (!metadata.empty()) text += fmt::format("\"{}\":{},", kMetadataKey, json(metadata).dump());
  int64_t position = 0;
  for (SafetensorsEntry& entry : entries) {
    const std::optional<int64_t> bits = dtype_bits(entry.dtype);
    const std::optional<int64_t> bytes = bits ? tensor_bytes(entry.shape, *bits) : std::nullopt;
    const std::optional<int64_t> end = bytes ? base::checked_add(position, *bytes) : std::nullopt;
    if (!end)
      fail(ExitCode::kInternal, "tensor '{}' cannot be written as {}", printable(entry.name), entry.dtype);
    entry.begin = std::exchange(position, *end);
    entry.end = *end;
    text += fmt::format(R"({}:{{"dtype":"{}","shape":{},"data_offsets":[{},{}]}},)", json(entry.name).dump(),
                        entry.dtype, json(entry.shape).dump(), entry.begin, entry.end);
  }
  if (text.back() == ',') text.pop_back();
  text += '}';
  const int64_t length =
      base::round_up(kPrefixBytes + static_cast<int64_t>(text.size()), kDataAlignment) - kPrefixBytes;
  if (length > kMaxHeaderBytes)
    fail(ExitCode::kInternal, "a safetensors header of {} bytes is not allowed", length);
  text.resize(static_cast<std::size_t>(length), ' ');
  const auto prefix = std::bit_cast<std::array<char, kPrefixBytes>>(static_cast<uint64_t>(length));
  return std::string(prefix.begin(), prefix.end()) + text;
}

}  // namespace sft::model
