#include "sft/ops/nf4.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "sft/base/checked.h"

namespace sft::ops {
namespace {

constexpr int64_t kNf4Block = 64, kNestedBlock = 256;
constexpr int64_t kBlocksPerTask = 512;

// Quantiles of the normal distribution, as published with QLoRA.
constexpr std::array<float, 16> kLevels = {
    -1.0F,
    -0.6961928009986877F,
    -0.5250730514526367F,
    -0.39491748809814453F,
    -0.28444138169288635F,
    -0.18477343022823334F,
    -0.09105003625154495F,
    0.0F,
    0.07958029955625534F,
    0.16093020141124725F,
    0.24611230194568634F,
    0.33791524171829224F,
    0.44070982933044434F,
    0.5626170039176941F,
    0.7229568362236023F,
    1.0F,
};

// Index of the level nearest to x, by the midpoints in fp32; the lower one on a midpoint. Levels ascend.
template <std::size_t N>
class Nearest {
 public:
  explicit Nearest(const std::array<float, N>& levels) {
    for (std::size_t i = 0; i + 1 < N; ++i) middles_[i] = (levels[i] + levels[i + 1]) / 2.0F;
  }
  uint8_t operator()(float x) const {
    return static_cast<uint8_t>(std::lower_bound(middles_.begin(), middles_.end(), x) - middles_.begin());
  }

 private:
  std::array<float, N - 1> middles_;
};

// bitsandbytes' signed dynamic map: for each of seven powers of ten, 2^i evenly spaced midpoints of [0.1, 1]
// of either sign; 0; 1.
const std::array<float, 256>& dynamic_map() {
  static const std::array<float, 256> map = [] {
    std::array<float, 256> values{};
    std::size_t count = 0;
    for (int i = 0; i < 7; ++i) {
      const int items = 1 << i;
      const auto power = static_cast<float>(std::pow(10.0, i - 6));
      const auto boundary = [items](int k) {  // as torch.linspace in float32
        const float step = 0.9F / static_cast<float>(items);
        return k < (items + 1) / 2 ? 0.1F + step * static_cast<float>(k)
                                   : 1.0F - step * static_cast<float>(items - k);
      };
      for (int k = 0; k < items; ++k) {
        const float value = power * ((boundary(k) + boundary(k + 1)) / 2.0F);
        values[count++] = value;
        values[count++] = -value;
      }
    }
    values[count++] = 0.0F;
    values[count++] = 1.0F;
    std::ranges::sort(values);
    return values;
  }();
  return map;
}

void quantize_blocks(const float* in, int64_t numel, uint8_t* codes, float* absmax) {
  static const Nearest<16> nearest(kLevels);
  constexpr float kSmallest = 1e-38F;
  at::parallel_for(0, base::ceil_div(numel, kNf4Block), kBlocksPerTask, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kNf4Block, end = std::min(numel, begin + kNf4Block);
      float largest = 0;
      for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(in[i]));
      absmax[block] = largest;
      const float divisor = std::max(largest, kSmallest), inverse = 1.0F / divisor;
      const bool whole = end - begin == kNf4Block;  // bitsandbytes divides in a block that is not full
      const auto scaled = [&](int64_t i) { return whole ? in[i] * inverse : in[i] / divisor; };
      for (int64_t i = begin; i < end; i += 2) {
        const uint8_t high = nearest(scaled(i)), low = nearest(i + 1 < end ? scaled(i + 1) : 0.0F);
        codes[i / 2] = static_cast<uint8_t>(high << 4 | low);
      }
    }
  });
}

void nest(Nf4Tensor& tensor) {
  static const Nearest<256> nearest(dynamic_map());
  const int64_t blocks = tensor.absmax.numel();
  const float* absmax = tensor.absmax.const_data_ptr<float>();
  // In one order: at::mean's depends on the number of threads, and ranks that quantise the same weights may have different ones.
  tensor.offset = static_cast<float>(std::accumulate(absmax, absmax + blocks, 0.0) / static_cast<double>(blocks));
  tensor.absmax_codes = at::empty({blocks}, at::TensorOptions(at::kByte));
  tensor.nested_absmax = at::empty({base::ceil_div(blocks, kNestedBlock)}, at::TensorOptions(at::kFloat));
  for (int64_t begin = 0; begin < blocks; begin += kNestedBlock) {
    const int64_t end = std::min(blocks, begin + kNestedBlock);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(absmax[i] - tensor.offset));
    tensor.nested_absmax.mutable_data_ptr<float>()[begin / kNestedBlock] = largest;
    for (int64_t i = begin; i < end; ++i) {
      const float scaled = largest > 0 ? (absmax[i] - tensor.offset) / largest : 0.0F;
      tensor.absmax_codes.mutable_data_ptr<uint8_t>()[i] = nearest(scaled);
    }
  }
  tensor.absmax = at::Tensor();
}

at::Tensor table(const float* values, int64_t count, const at::Tensor& like) {
  return at::from_blob(const_cast<float*>(values), {count}, at::TensorOptions(at::kFloat))
      .clone()
      .to(like.device());
}

// fp32 [blocks]
at::Tensor absmax_of(const Nf4Tensor& tensor) {
  if (tensor.absmax.defined()) return tensor.absmax;
  const at::Tensor map = table(dynamic_map().data(), 256, tensor.codes);
  const int64_t blocks = tensor.absmax_codes.numel();
  const at::Tensor scale = tensor.nested_absmax.repeat_interleave(kNestedBlock).narrow(0, 0, blocks);
  return map.index_select(0, tensor.absmax_codes.to(at::kInt)).mul_(scale).add_(tensor.offset);
}

void dequantize_blocks(const uint8_t* codes, const float* absmax, int64_t numel, float* out) {
  at::parallel_for(0, base::ceil_div(numel, kNf4Block), kBlocksPerTask, [&](int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t begin = block * kNf4Block, end = std::min(numel, begin + kNf4Block);
      for (int64_t i = begin; i + 1 < end; i += 2) {
        out[i] = kLevels[codes[i / 2] >> 4] * absmax[block];
        out[i + 1] = kLevels[codes[i / 2] & 15] * absmax[block];
      }
      if ((end - begin) % 2 == 1) out[end - 1] = kLevels[codes[end / 2] >> 4] * absmax[block];
    }
  });
}

}  // namespace

int64_t Nf4Tensor::numel() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

int64_t nf4_bytes(int64_t numel, bool nested) {
  const int64_t codes = base::ceil_div(numel, int64_t{2}), blocks = base::ceil_div(numel, kNf4Block);
  return codes + (nested ? blocks + 4 * base::ceil_div(blocks, kNestedBlock) : 4 * blocks);
}

Nf4Tensor nf4_quantize(const at::Tensor& weight, bool nested) {
  const at::Tensor flat = weight.contiguous().view(-1);
  Nf4Tensor result;
  result.shape = weight.sizes().vec();
  result.codes = at::empty({base::ceil_div(flat.numel(), int64_t{2})}, at::TensorOptions(at::kByte));
  result.absmax = at::empty({base::ceil_div(flat.numel(), kNf4Block)}, at::TensorOptions(at::kFloat));
  quantize_blocks(flat.const_data_ptr<float>(), flat.numel(), result.codes.mutable_data_ptr<uint8_t>(),
                  result.absmax.mutable_data_ptr<float>());
  if (nested) nest(result);
  return result;
}

at::Tensor nf4_dequantize(const Nf4Tensor& tensor, at::ScalarType dtype) {
  const int64_t numel = tensor.numel();
  const at::Tensor absmax = absmax_of(tensor);
  if (tensor.codes.is_cpu()) {
    const at::Tensor out = at::empty(tensor.shape, at::TensorOptions(at::kFloat));
    dequantize_blocks(tensor.codes.const_data_ptr<uint8_t>(), absmax.const_data_ptr<float>(), numel,
                      out.mutable_data_ptr<float>());
    return out.to(dtype);
  }
  const at::Tensor levels = table(kLevels.data(), 16, tensor.codes);
  const at::Tensor nibbles =
      at::stack({tensor.codes.bitwise_right_shift(4), tensor.codes.bitwise_and(15)}, 1);
  const at::Tensor values = levels.index_select(0, nibbles.view(-1).to(at::kInt)).narrow(0, 0, numel);
  const at::Tensor scale = absmax.repeat_interleave(kNf4Block).narrow(0, 0, numel);
  return (values * scale).to(dtype).view(tensor.shape);
}

Nf4Tensor nf4_to(const Nf4Tensor& tensor, const c10::Device& device) {
  Nf4Tensor moved = tensor;
  for (at::Tensor* part : {&moved.codes, &moved.absmax, &moved.absmax_codes, &moved.nested_absmax}) {
    if (part->defined()) *part = part->to(device);
  }
  return moved;
}

}  // namespace sft::ops
