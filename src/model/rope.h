// Rotary position tables.
#pragma once

#include <ATen/core/Tensor.h>

#include "sft/model/decoder.h"

namespace sft::model {

// Inverse frequencies [rotary_dim / 2], fp32 on the CPU, with the scaling applied.
at::Tensor rope_inverse_frequencies(const RopeSpec& rope);

RopeTables rope_tables(const RopeSpec& rope, const at::Tensor& position_ids);

}  // namespace sft::model
