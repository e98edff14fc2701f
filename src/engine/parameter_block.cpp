#include "sft/engine/parameter_block.h"

#include "sft/base/checked.h"
#include "sft/memory/long_lived.h"

namespace sft::engine {
namespace {

constexpr int64_t kAlignmentBytes = 64;

}  // namespace

ParameterBlock::ParameterBlock(const std::vector<model::TensorDef>& tensors, c10::Device device,
                               c10::ScalarType dtype, Kind kind)
    : tensors_(tensors) {
  const int64_t alignment = kAlignmentBytes / static_cast<int64_t>(c10::elementSize(dtype));
  for (const model::TensorDef& tensor : tensors_) {
    placements_.push_back({size_, tensor.numel()});
    size_ += base::round_up(tensor.numel(), alignment);
    if (tensor.decay) num_decayed_ = size_;
  }
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  parameters_ = memory::long_lived_zeros(size_, options);
  if (kind == Kind::kTrainable) gradients_ = memory::long_lived_zeros(size_, options);
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const auto [offset, numel] = placements_[i];
    weight_views_.push_back(parameters_.narrow(0, offset, numel).view(tensors_[i].shape));
    if (kind == Kind::kFrozen) continue;
    gradient_views_.push_back(gradients_.narrow(0, offset, numel).view(tensors_[i].shape));
  }
}

int64_t ParameterBlock::num_parameters() const {
  int64_t total = 0;
  for (const Placement& placement : placements_) total += placement.numel;
  return total;
}

}  // namespace sft::engine
