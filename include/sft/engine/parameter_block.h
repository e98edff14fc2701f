// Parameters and their gradients: two flat buffers, with named views in them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>
#include <vector>

#include "sft/model/decoder.h"

namespace sft::engine {

// Decayed tensors first, undecayed after. Every view starts on a 64-byte boundary; gaps are zero in both
// buffers and stay zero. Frozen parameters have no gradient buffer. Copies share the buffers.
class ParameterBlock {
 public:
  enum class Kind { kTrainable, kFrozen };

  // Local. Buffers are zero. dtype: fp32, and bf16 when frozen (fp64 in tests).
  ParameterBlock(const std::vector<model::TensorDef>& tensors, c10::Device device,
                 c10::ScalarType dtype = c10::kFloat, Kind kind = Kind::kTrainable);

  struct Placement {
    int64_t offset = 0, numel = 0;  // elements of the flat buffers
  };

  std::span<const model::TensorDef> tensors() const { return tensors_; }
  const Placement& placement(std::size_t tensor) const { return placements_[tensor]; }
  const at::Tensor& parameters() const { return parameters_; }  // 1-D [size()]
  const at::Tensor& gradients() const { return gradients_; }    // 1-D [size()]; undefined when frozen
  int64_t size() const { return size_; }                        // gaps included
  int64_t num_decayed() const { return num_decayed_; }          // a prefix of the flat buffers
  int64_t num_parameters() const;                               // gaps excluded

  // Shaped views, in the order of tensors(). Frozen: no gradients.
  model::BlockTensors views() const { return {weight_views_, gradient_views_}; }
  model::BlockTensors weights_only() const { return {weight_views_, {}}; }

 private:
  std::vector<model::TensorDef> tensors_;
  std::vector<Placement> placements_;
  int64_t size_ = 0, num_decayed_ = 0;
  at::Tensor parameters_, gradients_;
  std::vector<at::Tensor> weight_views_, gradient_views_;
};

}  // namespace sft::engine
