// Named tensors in files: reading any range of a tensor.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "sft/model/safetensors.h"

namespace sft::model {

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

// Local. The first of names that the source has (TensorDef::names_in_files).
std::optional<std::string> stored_name(const TensorSource& source, const std::vector<std::string>& names);

// Local. Whether it holds either of what open_model_weights reads.
bool has_weights(const std::filesystem::path& model_dir);
// Local. A model folder: model.safetensors, or shards named by model.safetensors.index.json (paths confined to the folder).
std::unique_ptr<TensorSource> open_model_weights(const std::filesystem::path& model_dir);
// Local. All tensors of these files; Error(kInvalidData) when two of them hold a tensor of the same name.
std::unique_ptr<TensorSource> open_safetensors_files(const std::vector<std::filesystem::path>& files);
std::unique_ptr<TensorSource> open_safetensors(std::vector<std::unique_ptr<ByteSource>> files);

}  // namespace sft::model
