#include "data/dataset_file.h"

#include <fmt/format.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/inspector.h"
#include "sft/base/error.h"
#include "sft/base/json.h"
#include "sft/base/log.h"

namespace sft::data {
namespace {

using base::ExitCode;
using base::fail;

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;
constexpr int64_t kMaxRowTokens = std::numeric_limits<int32_t>::max();

template <typename... Args>
[[noreturn]] void refuse(const std::filesystem::path& path, fmt::format_string<Args...> format,
                         Args&&... args) {
  fail(ExitCode::kInvalidData, "{}: {}", path.string(), fmt::format(format, std::forward<Args>(args)...));
}

template <typename T>
StoredArray<T> array(const std::shared_ptr<const base::File>& bytes, const FileLayout& layout,
                     const std::string& name) {
  const auto found = layout.arrays.find(name);
  if (found == layout.arrays.end()) refuse(bytes->path(), "{} is missing", name);
  return {bytes, name, found->second};
}

template <typename T>
std::optional<StoredArray<T>> optional_array(const std::shared_ptr<const base::File>& bytes,
                                             const FileLayout& layout, const std::string& name) {
  if (!layout.arrays.contains(name)) return std::nullopt;
  return array<T>(bytes, layout, name);
}

std::map<std::string, std::string> stated_hashes(const FileLayout& layout) {
  std::map<std::string, std::string> hashes{{"prepare_config", layout.prepare_config_xxh3}};
  for (const auto& [name, array] : layout.arrays) hashes[name] = array.xxh3;
  return hashes;
}

// docs/data-format.md, "Hashes".
std::string content_xxh3(const DatasetInfo& info, const std::map<std::string, std::string>& hashes) {
  const auto id = [](std::optional<int64_t> value) {
    return value ? fmt::to_string(*value) : std::string("none");
  };
  std::string text = fmt::format(
      "format=sft-dist-dataset\nversion=1\nvocab_size={}\nbos_token_id={}\neos_token_id={}\npad_token_id={}\n"
      "num_tokens={}\nnum_target_tokens={}\ntokenizer_sha256={}\n",
      info.vocab_size, id(info.bos_token_id), id(info.eos_token_id), id(info.pad_token_id), info.num_tokens,
      info.num_target_tokens, info.tokenizer_sha256);
  for (const char* name : {"input_ids", "offsets", "loss_mask", "labels", "first_target"}) {
    const auto hash = hashes.find(name);
    if (hash != hashes.end()) text += fmt::format("{}={}\n", name, hash->second);
  }
  return base::xxh3_hex(text);
}

void check_parts(const DatasetFile& file) {
  const auto check_size = [&](const auto& array, int64_t size, const char* unit) {
    if (array && array->size() != size) {
      refuse(file.path, "{} has {} elements; there are {} {}", array->name(), array->size(), size, unit);
    }
  };
  if (file.info.num_tokens != file.input_ids.size()) {
    refuse(file.path, "num_tokens is {}, input_ids has {} elements", file.info.num_tokens,
           file.input_ids.size());
  }
  check_size(file.loss_mask, file.input_ids.size(), "tokens");
  check_size(file.labels, file.input_ids.size(), "tokens");
  check_size(file.first_target, file.info.num_rows, "rows");
  if (file.loss_mask && file.labels)
    refuse(file.path, "has both loss_mask and labels: one of them decides what is learnt");
  const bool masked = file.loss_mask || file.labels;
  if (masked && !file.first_target) refuse(file.path, "first_target is missing beside loss_mask or labels");
  if (!masked && file.first_target)
    refuse(file.path, "first_target has no loss_mask and no labels beside it");
}

void check_counts(const DatasetFile& file) {
  const DatasetInfo& info = file.info;
  if (info.num_rows == 0) refuse(file.path, "the data set is empty");
  const bool all_learnt = !file.loss_mask && !file.labels;
  if (info.num_target_tokens < 0 || info.num_target_tokens > info.num_tokens ||
      (all_learnt && info.num_target_tokens != info.num_tokens)) {
    refuse(file.path, "num_target_tokens is {} of {} tokens", info.num_target_tokens, info.num_tokens);
  }
  if (info.num_target_tokens == 0) refuse(file.path, "no row has a target: there is nothing to learn");
}

std::vector<int64_t> read_offsets(const DatasetFile& file, const StoredArray<int64_t>& array) {
  std::vector<int64_t> offsets;
  offsets.reserve(static_cast<std::size_t>(array.size()));
  const std::string digest = visit_blocks(array, [&](int64_t, std::span<const int64_t> block) {
    for (const int64_t offset : block) {
      const int64_t row = static_cast<int64_t>(offsets.size()) - 1;  // that this offset ends
      if (row < 0 && offset != 0) refuse(file.path, "offsets begins with {}, not 0", offset);
      if (row >= 0 && offset <= offsets.back()) {
        refuse(file.path, "offsets: row {} ends at token {} and begins at {}", row, offset, offsets.back());
      }
      if (row >= 0 && offset - offsets.back() > kMaxRowTokens) {
        refuse(file.path, "offsets: row {} has {} tokens", row, offset - offsets.back());
      }
      offsets.push_back(offset);
    }
  });
  if (offsets.back() != file.input_ids.size()) {
    refuse(file.path, "offsets end at token {}, input_ids has {}", offsets.back(), file.input_ids.size());
  }
  file.check_xxh3("offsets", digest);
  return offsets;
}

void check_prepare_config(const DatasetFile& file) {
  file.check_xxh3("prepare_config", base::xxh3_hex(file.info.prepare_config));
  const std::string what = file.path.string() + ": prepare_config";
  if (!base::parse_json(file.info.prepare_config, what, {.bytes = kMaxConfigBytes}).is_object()) {
    refuse(file.path, "prepare_config is not a JSON object");
  }
}

}  // namespace

DatasetFile DatasetFile::open(const std::filesystem::path& path) {
  auto bytes = std::make_shared<const base::File>(path, base::File::Mode::kRead);
  FileLayout layout = inspect(*bytes);
  return open(std::move(bytes), std::move(layout));
}

DatasetFile DatasetFile::open(std::shared_ptr<const base::File> bytes, FileLayout layout) {
  const std::filesystem::path& path = bytes->path();
  if (bytes->size() != layout.file_bytes) refuse(path, "the file's size changed while it was opened");
  DatasetFile file{.path = path,
                   .info = std::move(layout.info),
                   .offsets = {},
                   .input_ids = array<int32_t>(bytes, layout, "input_ids"),
                   .loss_mask = optional_array<uint8_t>(bytes, layout, "loss_mask"),
                   .labels = optional_array<int32_t>(bytes, layout, "labels"),
                   .first_target = optional_array<int32_t>(bytes, layout, "first_target"),
                   .xxh3 = stated_hashes(layout)};
  const auto offsets = array<int64_t>(bytes, layout, "offsets");
  if (offsets.size() == 0) refuse(path, "offsets is empty: it begins with 0");
  file.info.num_rows = offsets.size() - 1;
  check_parts(file);
  check_counts(file);
  file.offsets = read_offsets(file, offsets);
  check_prepare_config(file);
  const std::string content = content_xxh3(file.info, file.xxh3);
  if (content != file.info.content_xxh3) {
    refuse(path, "content_xxh3 is {}, the file's attributes give {}: it is damaged",
           log::printable(file.info.content_xxh3), content);
  }
  return file;
}

std::vector<int32_t> DatasetFile::read_first_targets() const {
  std::vector<int32_t> targets;
  if (!first_target) return targets;
  targets.reserve(static_cast<std::size_t>(info.num_rows));
  const std::string digest =
      visit_blocks(*first_target, [&](int64_t first_row, std::span<const int32_t> block) {
        for (std::size_t i = 0; i < block.size(); ++i) {
          const int64_t row = first_row + static_cast<int64_t>(i);
          if (block[i] < 0 || block[i] > length(row)) {
            refuse(path, "first_target: row {} has {}, its length is {}", row, block[i], length(row));
          }
        }
        targets.insert(targets.end(), block.begin(), block.end());
      });
  check_xxh3("first_target", digest);
  return targets;
}

void DatasetFile::check_xxh3(const std::string& dataset, const std::string& digest) const {
  const std::string& stated = xxh3.at(dataset);
  if (digest == stated) return;
  refuse(path, "{} is damaged: its hash is {}, not {}", dataset, digest, log::printable(stated));
}

int64_t DatasetFile::row_of_token(int64_t token) const {
  return std::upper_bound(offsets.begin(), offsets.end(), token) - offsets.begin() - 1;
}

void DatasetFile::check_ids(std::span<const int32_t> values, int64_t first_token) const {
  const auto allowed = [&](int32_t id) { return id >= 0 && id < info.vocab_size; };
  const auto bad = std::find_if_not(values.begin(), values.end(), allowed);
  if (bad == values.end()) return;
  const int64_t token = first_token + (bad - values.begin()), row = row_of_token(token);
  refuse(path, "input_ids: row {}, token {} is {}, outside the vocabulary of {}", row,
         token - offsets[static_cast<std::size_t>(row)], *bad, info.vocab_size);
}

void DatasetFile::check_labels(std::span<const int32_t> values, int64_t first_token) const {
  const auto allowed = [&](int32_t id) { return id == kIgnoreIndex || (id >= 0 && id < info.vocab_size); };
  const auto bad = std::find_if_not(values.begin(), values.end(), allowed);
  if (bad == values.end()) return;
  const int64_t token = first_token + (bad - values.begin()), row = row_of_token(token);
  refuse(path, "labels: row {}, token {} is {}, neither {} nor in the vocabulary of {}", row,
         token - offsets[static_cast<std::size_t>(row)], *bad, kIgnoreIndex, info.vocab_size);
}

void DatasetFile::check_loss_mask(std::span<const uint8_t> values, int64_t first_token) const {
  const auto bad = std::find_if(values.begin(), values.end(), [](uint8_t learnt) { return learnt > 1; });
  if (bad == values.end()) return;
  const int64_t token = first_token + (bad - values.begin()), row = row_of_token(token);
  refuse(path, "loss_mask: row {}, token {} is {}, neither 0 nor 1", row,
         token - offsets[static_cast<std::size_t>(row)], *bad);
}

}  // namespace sft::data
