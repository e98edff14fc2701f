// In fp32 throughout, with the operations of transformers in their order (modeling_rope_utils), so that
// angles agree to the bit: at position 10^4 a rounding difference in a frequency is already a visible angle.
#include "model/rope.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <numbers>

namespace sft::model {
namespace {

// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended.
at::Tensor llama3_scaled(const at::Tensor& frequencies, const DecoderSpec& spec) {
  const auto context = static_cast<double>(spec.rope_original_max_position_embeddings);
  const double low = spec.rope_low_freq_factor, high = spec.rope_high_freq_factor;
  const at::Tensor wavelength = 2.0 * std::numbers::pi / frequencies;
  const at::Tensor is_long = wavelength.gt(context / low), is_short = wavelength.lt(context / high);
  const at::Tensor scaled = at::where(is_long, frequencies / spec.rope_factor, frequencies);
  const at::Tensor smooth = (context / wavelength - low) / (high - low);
  const at::Tensor blended = (1.0 - smooth) * scaled / spec.rope_factor + smooth * scaled;
  return at::where(is_long.logical_or(is_short), scaled, blended);
}

}  // namespace

at::Tensor rope_inverse_frequencies(const DecoderSpec& spec) {
  const at::Tensor exponents = at::arange(0, spec.head_dim, 2, at::TensorOptions(at::kFloat)) / spec.head_dim;
  const at::Tensor frequencies = 1.0 / at::pow(spec.rope_theta, exponents);
  switch (spec.rope_scaling) {
    case RopeScaling::kNone:
      break;
    case RopeScaling::kLinear:
      return frequencies / spec.rope_factor;
    case RopeScaling::kLlama3:
      return llama3_scaled(frequencies, spec);
  }
  return frequencies;
}

RopeTables rope_tables(const DecoderSpec& spec, const at::Tensor& position_ids) {
  const at::Tensor frequencies = rope_inverse_frequencies(spec).to(position_ids.device());
  const at::Tensor angles = position_ids.to(at::kFloat).unsqueeze(1) * frequencies;
  return {angles.cos(), angles.sin()};
}

}  // namespace sft::model
