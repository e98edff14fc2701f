// In fp32 throughout, with the operations of transformers in their order (modeling_rope_utils), so that
// angles agree to the bit: at position 10^4 a rounding difference in a frequency is already a visible angle.
#include "model/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <numbers>

namespace sft::model {
namespace {

// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
at::Tensor llama3_scaled(const at::Tensor& frequencies, const RopeSpec& rope) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  const double low = rope.low_freq_factor, high = rope.high_freq_factor;
  const at::Tensor wavelength = 2.0 * std::numbers::pi / frequencies;
  const at::Tensor is_long = wavelength.gt(context / low), is_short = wavelength.lt(context / high);
  const at::Tensor scaled = at::where(is_long, frequencies / rope.factor, frequencies);
  const at::Tensor smooth = (context / wavelength - low) / (high - low);
  const at::Tensor blended = (1.0 - smooth) * scaled / rope.factor + smooth * scaled;
  return at::where(is_long.logical_or(is_short), scaled, blended);
}

// YaRN, arXiv:2309.00071, section 3.2: the feature at which a wave turns `rotations` times in the original
// context.
double yarn_feature(double rotations, const RopeSpec& rope) {
  const auto context = static_cast<double>(rope.original_max_position_embeddings);
  return static_cast<double>(rope.rotary_dim) * std::log(context / (rotations * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(rope.theta));
}

// Waves that turn often are kept, those that turn seldom slowed by `factor`, with a linear ramp between.
at::Tensor yarn_scaled(const at::Tensor& periods, const RopeSpec& rope) {
  double low = yarn_feature(rope.beta_fast, rope), high = yarn_feature(rope.beta_slow, rope);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor feature = at::arange(rope.rotary_dim / 2, at::TensorOptions(at::kFloat));
  const at::Tensor kept = 1.0 - ((feature - low) / (high - low)).clamp(0, 1);
  return 1.0 / (rope.factor * periods) * (1.0 - kept) + 1.0 / periods * kept;
}

}  // namespace

at::Tensor rope_inverse_frequencies(const RopeSpec& rope) {
  const at::Tensor exponents =
      at::arange(0, rope.rotary_dim, 2, at::TensorOptions(at::kFloat)) / rope.rotary_dim;
  const at::Tensor periods = at::pow(rope.theta, exponents);
  switch (rope.scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      return 1.0 / periods / rope.factor;
    case RopeScaling::kLlama3:
      return llama3_scaled(1.0 / periods, rope);
    case RopeScaling::kYarn:
      return yarn_scaled(periods, rope);
    case RopeScaling::kLongrope:
      return 1.0 / (at::tensor(rope.short_factor, at::TensorOptions(at::kFloat)) * periods);
  }
  return 1.0 / periods;
}

RopeTables rope_tables(const RopeSpec& rope, const at::Tensor& position_ids) {
  const at::Tensor frequencies = rope_inverse_frequencies(rope).to(position_ids.device());
  const at::Tensor angles = position_ids.to(at::kFloat).unsqueeze(1) * frequencies;
  if (rope.attention_factor == 1.0) return {angles.cos(), angles.sin()};
  return {angles.cos() * rope.attention_factor, angles.sin() * rope.attention_factor};
}

}  // namespace sft::model
