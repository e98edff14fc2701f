// Tensors by name over safetensors files, and the folder layout of Hugging Face models.
#include "sft/model/weights.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <utility>

#include "model/shard_index.h"
#include "sft/base/checked.h"
#include "sft/base/error.h"
#include "sft/base/log.h"

namespace sft::model {
namespace {

using base::ExitCode;
using base::fail;
using log::printable;

constexpr int64_t kConvertBytes = int64_t{32} << 20;  // buffer of tensors that are not stored as fp32
constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

class PlainFile final : public ByteSource {
 public:
  explicit PlainFile(const std::filesystem::path& path)
      : file_(path, base::File::Mode::kRead), size_(file_.size()) {}

  const std::filesystem::path& path() const override { return file_.path(); }
  int64_t size() const override { return size_; }
  int64_t bytes_read() const override { return bytes_read_; }

  void read_at(int64_t offset, std::span<std::byte> out) const override {
    file_.read_at(offset, out);
    bytes_read_ += std::ssize(out);
  }

 private:
  base::File file_;
  int64_t size_;
  mutable std::atomic<int64_t> bytes_read_{0};
};

std::optional<at::ScalarType> float_type(std::string_view dtype) {
  if (dtype == "F32") return at::kFloat;
  if (dtype == "BF16") return at::kBFloat16;
  if (dtype == "F16") return at::kHalf;
  if (dtype == "F64") return at::kDouble;
  return std::nullopt;
}

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

class SafetensorsFiles final : public TensorSource {
 public:
  void add(std::unique_ptr<ByteSource> file, const SafetensorsHeader& header) {
    for (const SafetensorsEntry& entry : header.entries) {
      const auto [found, added] =
          tensors_.try_emplace(entry.name, Tensor{file.get(), header.data_start, entry});
      if (!added) {
        fail(ExitCode::kInvalidData, "tensor '{}' is in {} and in {}", printable(entry.name),
             found->second.file->path().string(), file->path().string());
      }
    }
    files_.push_back(std::move(file));
  }

  bool contains(std::string_view name) const override { return tensors_.find(name) != tensors_.end(); }

  std::vector<std::string> names() const override {
    std::vector<std::string> result;
    for (const auto& [name, tensor] : tensors_) result.push_back(name);
    return result;
  }

  std::vector<int64_t> shape(std::string_view name) const override { return find(name).entry.shape; }
  std::string dtype(std::string_view name) const override { return find(name).entry.dtype; }

  int64_t bytes_read() const override {
    int64_t total = 0;
    for (const auto& file : files_) total += file->bytes_read();
    return total;
  }

  void read(std::string_view name, int64_t begin, int64_t end, const at::Tensor& out) const override {
    const Tensor& tensor = find(name);
    const std::optional<at::ScalarType> type = float_type(tensor.entry.dtype);
    if (!type) {
      fail(ExitCode::kInvalidData, "{}: tensor '{}' is stored as {}: only F32, BF16, F16 and F64 can be read",
           tensor.file->path().string(), printable(name), tensor.entry.dtype);
    }
    const auto element_bytes = static_cast<int64_t>(c10::elementSize(*type));
    const int64_t numel = (tensor.entry.end - tensor.entry.begin) / element_bytes;
    if (begin < 0 || end < begin || end > numel) {
      fail(ExitCode::kInvalidData, "{}: elements {} to {} asked of tensor '{}', which has {}",
           tensor.file->path().string(), begin, end, printable(name), numel);
    }
    if (out.scalar_type() != at::kFloat || !out.is_cpu() || !out.is_contiguous() ||
        out.numel() != end - begin) {
      fail(ExitCode::kInternal, "tensor '{}' is read into something else than {} fp32 numbers",
           printable(name), end - begin);
    }
    const int64_t start = tensor.data_start + tensor.entry.begin;
    if (*type == at::kFloat) {
      tensor.file->read_at(start + begin * element_bytes, bytes_of(out));
      return;
    }
    const int64_t step = std::min(kConvertBytes / element_bytes, end - begin);
    const at::Tensor buffer = at::empty({step}, at::TensorOptions().dtype(*type));
    for (int64_t first = begin; first < end; first += step) {
      const int64_t count = std::min(step, end - first);
      const at::Tensor part = buffer.narrow(0, 0, count);
      tensor.file->read_at(start + first * element_bytes, bytes_of(part));
      out.view(-1).narrow(0, first - begin, count).copy_(part);
    }
  }

 private:
  struct Tensor {
    const ByteSource* file;
    int64_t data_start;
    SafetensorsEntry entry;
  };

  const Tensor& find(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) {
      fail(ExitCode::kInvalidData, "there is no tensor '{}' in {}", printable(name),
           files_.empty() ? "an empty list of files" : files_.front()->path().parent_path().string());
    }
    return found->second;
  }

  std::vector<std::unique_ptr<ByteSource>> files_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

std::unique_ptr<TensorSource> open_indexed(const std::filesystem::path& index_path) {
  const ShardIndex index = parse_shard_index(base::read_text(index_path), index_path.string());
  std::set<std::string> files;
  for (const auto& [tensor, file] : index.weight_map) files.insert(file);
  auto result = std::make_unique<SafetensorsFiles>();
  for (const std::string& file : files) {
    const std::filesystem::path path = index_path.parent_path() / file;
    if (!std::filesystem::exists(path)) {
      fail(ExitCode::kInvalidData, "{} is missing, although {} names it", path.string(), index_path.string());
    }
    auto source = std::make_unique<PlainFile>(path);
    const SafetensorsHeader header = read_safetensors_header(*source);
    check_shard(index_path, index, file, header);
    result->add(std::move(source), header);
  }
  return result;
}

}  // namespace

std::unique_ptr<TensorSource> open_safetensors(std::vector<std::unique_ptr<ByteSource>> files) {
  auto result = std::make_unique<SafetensorsFiles>();
  for (std::unique_ptr<ByteSource>& file : files) {
    const SafetensorsHeader header = read_safetensors_header(*file);
    result->add(std::move(file), header);
  }
  return result;
}

std::unique_ptr<TensorSource> open_safetensors_files(const std::vector<std::filesystem::path>& files) {
  std::vector<std::unique_ptr<ByteSource>> sources;
  for (const std::filesystem::path& file : files) sources.push_back(std::make_unique<PlainFile>(file));
  return open_safetensors(std::move(sources));
}

std::optional<std::string> stored_name(const TensorSource& source, const std::vector<std::string>& names) {
  const auto found = std::ranges::find_if(names, [&](const std::string& name) { return source.contains(name); });
  return found == names.end() ? std::nullopt : std::optional(*found);
}

bool has_weights(const std::filesystem::path& model_dir) {
  return std::filesystem::exists(model_dir / kSingleFile) || std::filesystem::exists(model_dir / kIndexFile);
}

std::unique_ptr<TensorSource> open_model_weights(const std::filesystem::path& model_dir) {
  // Where both are there, transformers takes the single file too.
  const std::filesystem::path single = model_dir / kSingleFile;
  if (std::filesystem::exists(single)) return open_safetensors_files({single});
  const std::filesystem::path index = model_dir / kIndexFile;
  if (std::filesystem::exists(index)) return open_indexed(index);
  fail(ExitCode::kInvalidData,
       "{} has neither {} nor {}: sft-dist reads safetensors weights only (sft-prepare converts others)",
       model_dir.string(), kSingleFile, kIndexFile);
}

}  // namespace sft::model
