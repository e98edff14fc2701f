// Lion (Chen et al., "Symbolic discovery of optimization algorithms", arXiv 2302.06675), as bitsandbytes' Lion with
// 32-bit state, which transformers makes for optim = lion_32bit.
#pragma once

#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

std::unique_ptr<Optimizer> make_lion(const config::OptimizerOptions& options, std::vector<FlatRange> ranges);

}  // namespace sft::optim
