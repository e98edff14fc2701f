// Named tensors in files: the safetensors format, and reading any range of a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "sft/base/file.h"

namespace sft::model {

// One tensor of a safetensors header; bytes [begin, end) counted from the end of the header.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", "BF16", "F16", "F64", "I64", ...
  std::vector<int64_t> shape;
  int64_t begin = 0, end = 0;
};
struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in file order
  std::map<std::string, std::string> metadata;
  int64_t data_start = 0;                 // 8 + header length
};

// The bytes of one file. A checkpoint's implementation verifies what it hands out.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual const std::filesystem::path& path() const = 0;
  virtual int64_t size() const = 0;
  // Local, thread-safe. Bytes [offset, offset + out.size()); large ranges are read by several threads.
  virtual void read_at(int64_t offset, std::span<std::byte> out) const = 0;
  virtual int64_t bytes_read() const = 0;
};

// Local. All of the reference implementation's rules (docs/checkpoint-format.md); Error(kInvalidData) naming file, tensor and rule.
SafetensorsHeader read_safetensors_header(const ByteSource& file);
SafetensorsHeader read_safetensors_header(const base::File& file);
// Local. The bytes before the data: length, JSON padded with blanks so that data_start is a multiple of 64.
// Entries are laid out in the given order; begin and end are filled in.
std::string make_safetensors_header(std::vector<SafetensorsEntry>& entries, const std::map<std::string, std::string>& metadata);

// Tensors by name, any range of each.
class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual bool contains(std::string_view name) const = 0;
  virtual std::vector<std::string> names() const = 0;
  virtual std::vector<int64_t> shape(std::string_view name) const = 0;
  virtual std::string dtype(std::string_view) const { return "F32"; }  // as stored
  // Local, thread-safe. Elements [begin, end) of the flattened tensor, converted to fp32, into out: fp32 CPU contiguous, end - begin elements.
  // Error(kInvalidData): no such tensor, not a floating-point type (F32, BF16, F16, F64), or outside the tensor.
  virtual void read(std::string_view name, int64_t begin, int64_t end, const at::Tensor& out) const = 0;
  virtual int64_t bytes_read() const = 0;  // headers included
};

// Local. A model folder: model.safetensors, or shards named by model.safetensors.index.json (paths confined to the folder).
std::unique_ptr<TensorSource> open_model_weights(const std::filesystem::path& model_dir);
// Local. All tensors of these files; Error(kInvalidData) when two of them hold a tensor of the same name.
std::unique_ptr<TensorSource> open_safetensors_files(const std::vector<std::filesystem::path>& files);
std::unique_ptr<TensorSource> open_safetensors(std::vector<std::unique_ptr<ByteSource>> files);

}  // namespace sft::model
