#include "data/hdf5/read_layout.h"

#include <fmt/format.h>

#include <optional>
#include <string>

#include "data/hdf5/hdf5_file.h"
#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::data {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

template <typename... Args>
[[noreturn]] void refuse(const Hdf5File& file, fmt::format_string<Args...> format, Args&&... args) {
  base::fail(base::ExitCode::kInvalidData, "{}: {}", file.path().string(),
             fmt::format(format, std::forward<Args>(args)...));
}

void check_format(const Hdf5File& file) {
  const char* const kFormat = "sft-dist-dataset";
  if (!file.has_attribute("/", "format")) {
    refuse(file, "attribute format is missing: this is not a data set that sft-prepare wrote");
  }
  const std::string format = file.string_attribute("/", "format");
  if (format != kFormat) refuse(file, "format is \"{}\", not \"{}\"", log::printable(format), kFormat);
  const int64_t version = file.int_attribute("/", "version");
  if (version != 1)
    refuse(file, "version {} is not known, only 1: write the file again with sft-prepare", version);
}

std::optional<int64_t> token_id(const Hdf5File& file, const std::string& name) {
  if (!file.has_attribute("/", name)) return std::nullopt;
  return file.int_attribute("/", name);
}

DatasetInfo read_info(const Hdf5File& file) {
  DatasetInfo info;
  info.vocab_size = file.int_attribute("/", "vocab_size");
  info.bos_token_id = token_id(file, "bos_token_id");
  info.eos_token_id = token_id(file, "eos_token_id");
  info.pad_token_id = token_id(file, "pad_token_id");
  info.num_tokens = file.int_attribute("/", "num_tokens");
  info.num_target_tokens = file.int_attribute("/", "num_target_tokens");
  info.tokenizer_sha256 = file.string_attribute("/", "tokenizer_sha256");
  info.content_xxh3 = file.string_attribute("/", "content_xxh3");
  info.prepare_config = file.string("prepare_config", kMaxConfigBytes);
  return info;
}

template <typename T>
void add_array(const Hdf5File& file, const std::string& name, FileLayout& layout) {
  ArrayLayout array = file.array<T>(name);
  array.xxh3 = file.string_attribute(name, "xxh3");
  layout.arrays[name] = std::move(array);
}

}  // namespace

FileLayout read_layout(const base::File& bytes) {
  const Hdf5File file(bytes);
  check_format(file);
  FileLayout layout{.file_bytes = bytes.size(), .info = read_info(file)};
  layout.prepare_config_xxh3 = file.string_attribute("prepare_config", "xxh3");
  add_array<int32_t>(file, "input_ids", layout);
  add_array<int64_t>(file, "offsets", layout);
  if (file.has("loss_mask")) add_array<uint8_t>(file, "loss_mask", layout);
  if (file.has("labels")) add_array<int32_t>(file, "labels", layout);
  if (file.has("first_target")) add_array<int32_t>(file, "first_target", layout);
  check_layout(layout, file.path());
  return layout;
}

}  // namespace sft::data
