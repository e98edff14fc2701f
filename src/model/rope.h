// Rotary position tables.
#pragma once

#include <ATen/core/Tensor.h>

#include "sft/model/spec.h"

namespace sft::model {

// Inverse frequencies [head_dim / 2], fp32 on the CPU, with the spec's scaling applied.
at::Tensor rope_inverse_frequencies(const DecoderSpec& spec);

struct RopeTables {
  at::Tensor cos, sin;  // [T, head_dim / 2], fp32
};
RopeTables rope_tables(const DecoderSpec& spec, const at::Tensor& position_ids);

}  // namespace sft::model
