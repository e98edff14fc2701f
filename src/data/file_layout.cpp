#include "data/file_layout.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;
using nlohmann::json;

constexpr std::size_t kMaxFilters = 3;  // each once
constexpr int64_t kMaxJsonBytes = int64_t{256} << 20;
constexpr int64_t kMaxJsonValues = 16 * kMaxChunks;  // five arrays of chunks, three numbers each

// Compressing what cannot be compressed, and a check sum, add a little.
int64_t most_stored_bytes(int64_t chunk_bytes) {
  return chunk_bytes + chunk_bytes / 512 + 64;
}

// What messages call an array.
struct Where {
  const std::filesystem::path& path;
  const std::string& name;

  template <typename... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ExitCode::kInvalidData, "{}: {} {}", path.string(), log::printable(name),
         fmt::format(format, std::forward<Args>(args)...));
  }
};

void require_inside(int64_t offset, int64_t bytes, int64_t file_bytes, const Where& where) {
  if (offset >= 0 && bytes >= 0 && bytes <= file_bytes && offset <= file_bytes - bytes) return;
  where.refuse("does not lie inside the file: {} bytes from byte {}; the file has {}", bytes, offset,
               file_bytes);
}

void check_chunks(const ArrayLayout& array, int64_t file_bytes, const Where& where) {
  if (array.chunk_elements < 0 || array.chunk_elements > kMaxChunkBytes / array.element_bytes) {
    where.refuse("has chunks of {} elements, more than {} MiB", array.chunk_elements, kMaxChunkBytes >> 20);
  }
  if (std::ssize(array.chunks) != base::ceil_div(array.size, array.chunk_elements)) {
    where.refuse("has {} chunks of {} elements for its {}", array.chunks.size(), array.chunk_elements,
                 array.size);
  }
  if (array.filters.size() > kMaxFilters) where.refuse("has {} filters", array.filters.size());
  int64_t stored = 0;
  for (const StoredChunk& chunk : array.chunks) {
    require_inside(chunk.offset, chunk.bytes, file_bytes, where);
    if (chunk.bytes < array.chunk_bytes() / kMaxCompression) {
      where.refuse("declares {} bytes and stores {}: no data set is compressed that well",
                   array.chunk_bytes(), chunk.bytes);
    }
    if (chunk.bytes > most_stored_bytes(array.chunk_bytes())) {
      where.refuse("stores {} bytes in a chunk of {}", chunk.bytes, array.chunk_bytes());
    }
    stored += chunk.bytes;
  }
  // Else chunks share bytes, and a small file declares a large array.
  if (stored > file_bytes) where.refuse("stores {} bytes in chunks; the file has {}", stored, file_bytes);
}

void check_array(const ArrayLayout& array, int64_t file_bytes, const Where& where) {
  if (array.element_bytes != 1 && array.element_bytes != 4 && array.element_bytes != 8) {
    where.refuse("has elements of {} bytes", array.element_bytes);
  }
  if (array.size < 0 || array.size > std::numeric_limits<int64_t>::max() / array.element_bytes) {
    where.refuse("declares {} elements", array.size);
  }
  if (array.chunk_elements != 0) return check_chunks(array, file_bytes, where);
  require_inside(array.offset, array.size * array.element_bytes, file_bytes, where);
}

json optional_to_json(const std::optional<int64_t>& value) {
  return value ? json(*value) : json();
}

json array_to_json(const ArrayLayout& array) {
  json filters = json::array(), chunks = json::array();
  for (const Filter filter : array.filters) filters.push_back(static_cast<int>(filter));
  for (const StoredChunk& chunk : array.chunks) {
    for (const int64_t number : {chunk.offset, chunk.bytes, int64_t{chunk.skipped}}) chunks.push_back(number);
  }
  return {{"element_bytes", array.element_bytes},
          {"size", array.size},
          {"xxh3", array.xxh3},
          {"offset", array.offset},
          {"chunk_elements", array.chunk_elements},
          {"filters", std::move(filters)},
          {"chunks", std::move(chunks)}};
}

// json::get() turns fractions, floats and large unsigned numbers into some int64; this does not.
int64_t integer(const json& value, const char* what) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{INT64_MAX})) {
    throw std::invalid_argument(fmt::format("{} is not an integer", what));
  }
  return value.get<int64_t>();
}
int64_t integer_at(const json& object, const std::string& key) {
  return integer(object.at(key), key.c_str());
}

std::optional<int64_t> optional_integer(const json& object, const std::string& key) {
  return object.at(key).is_null() ? std::nullopt : std::optional(integer_at(object, key));
}

Filter filter_from_json(const json& value) {
  const int64_t number = integer(value, "a filter");
  if (number < 0 || number >= static_cast<int64_t>(kMaxFilters))
    throw std::invalid_argument(fmt::format("filter {} is not known", number));
  return static_cast<Filter>(number);
}

ArrayLayout array_from_json(const json& value) {
  ArrayLayout array;
  array.element_bytes = integer_at(value, "element_bytes");
  array.size = integer_at(value, "size");
  array.xxh3 = value.at("xxh3").get<std::string>();
  array.offset = integer_at(value, "offset");
  array.chunk_elements = integer_at(value, "chunk_elements");
  for (const json& filter : value.at("filters")) array.filters.push_back(filter_from_json(filter));
  const json& chunks = value.at("chunks");
  if (!chunks.is_array() || chunks.size() % 3 != 0) throw std::invalid_argument("chunks are not triples");
  for (std::size_t i = 0; i < chunks.size(); i += 3) {
    array.chunks.push_back({.offset = integer(chunks[i], "a chunk"),
                            .bytes = integer(chunks[i + 1], "a chunk"),
                            .skipped = base::narrow<uint32_t>(integer(chunks[i + 2], "a chunk"))});
  }
  return array;
}

DatasetInfo info_from_json(const json& value) {
  DatasetInfo info;
  info.num_tokens = integer_at(value, "num_tokens");
  info.num_target_tokens = integer_at(value, "num_target_tokens");
  info.vocab_size = integer_at(value, "vocab_size");
  info.bos_token_id = optional_integer(value, "bos_token_id");
  info.eos_token_id = optional_integer(value, "eos_token_id");
  info.pad_token_id = optional_integer(value, "pad_token_id");
  info.tokenizer_sha256 = value.at("tokenizer_sha256").get<std::string>();
  info.content_xxh3 = value.at("content_xxh3").get<std::string>();
  info.prepare_config = value.at("prepare_config").get<std::string>();
  return info;
}

FileLayout parse_layout(std::string_view text, const std::filesystem::path& path) {
  const json parsed = base::parse_json(text, path.string() + ": its layout",
                                       {.bytes = kMaxJsonBytes, .values = kMaxJsonValues});
  FileLayout layout;
  layout.file_bytes = integer_at(parsed, "file_bytes");
  layout.info = info_from_json(parsed.at("info"));
  layout.prepare_config_xxh3 = parsed.at("prepare_config_xxh3").get<std::string>();
  for (const auto& [name, array] : parsed.at("arrays").items()) layout.arrays[name] = array_from_json(array);
  return layout;
}

}  // namespace

void check_layout(const FileLayout& layout, const std::filesystem::path& path) {
  if (layout.info.vocab_size < 1 || layout.info.vocab_size > std::numeric_limits<int32_t>::max()) {
    fail(ExitCode::kInvalidData, "{}: vocab_size is {}", path.string(), layout.info.vocab_size);
  }
  for (const auto& [name, array] : layout.arrays) check_array(array, layout.file_bytes, {path, name});
}

std::string to_json(const FileLayout& layout) {
  const DatasetInfo& info = layout.info;
  json arrays = json::object();
  for (const auto& [name, array] : layout.arrays) arrays[name] = array_to_json(array);
  const json result = {{"file_bytes", layout.file_bytes},
                       {"info",
                        {{"num_tokens", info.num_tokens},
                         {"num_target_tokens", info.num_target_tokens},
                         {"vocab_size", info.vocab_size},
                         {"bos_token_id", optional_to_json(info.bos_token_id)},
                         {"eos_token_id", optional_to_json(info.eos_token_id)},
                         {"pad_token_id", optional_to_json(info.pad_token_id)},
                         {"tokenizer_sha256", info.tokenizer_sha256},
                         {"content_xxh3", info.content_xxh3},
                         {"prepare_config", info.prepare_config}}},
                       {"prepare_config_xxh3", layout.prepare_config_xxh3},
                       {"arrays", std::move(arrays)}};
  return result.dump(-1, ' ', false, json::error_handler_t::replace);
}

FileLayout layout_from_json(std::string_view text, const std::filesystem::path& path) {
  try {
    FileLayout layout = parse_layout(text, path);
    check_layout(layout, path);
    return layout;
  } catch (const base::Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ExitCode::kInvalidData, "{}: its layout cannot be used: {}", path.string(),
         log::printable(error.what()));
  }
}

}  // namespace sft::data
