// AdamW whose moments are kept in 8 bits, block by block (Dettmers et al., "8-bit optimizers via block-wise quantization",
// arXiv 2110.02861), as bitsandbytes' AdamW with optim_bits = 8, which transformers makes for optim = adamw_8bit.
//
// A block is 256 elements of one tensor; a code stands for a value of bitsandbytes' dynamic map times the block's largest
// magnitude. Tensors of fewer than 4096 elements and embeddings keep 32-bit moments, as there.
// A checkpoint holds exp_avg_codes and exp_avg_sq_codes, four codes to a 32-bit word, and exp_avg_largest and
// exp_avg_sq_largest, a number for each block; of tensors with 32-bit moments exp_avg and exp_avg_sq.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

// bitsandbytes' create_dynamic_map(signed), ascending.
std::array<float, 256> dynamic_map(bool with_sign);

// Needs FlatRange::tensors. Error(kConfig) where the parameters are not on the CPU.
std::unique_ptr<Optimizer> make_adamw_8bit(const config::OptimizerOptions& options,
                                           std::vector<FlatRange> ranges);

}  // namespace sft::optim
