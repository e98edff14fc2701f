// Adafactor (Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", arXiv 1804.04235), as
// transformers' Adafactor with scale_parameter = relative_step = False, which it makes for optim = adafactor.
#pragma once

#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

// States exp_avg_sq_row and exp_avg_sq_col of tensors with two dimensions or more, exp_avg_sq of the others. Needs
// FlatRange::tensors.
std::unique_ptr<Optimizer> make_adafactor(const config::OptimizerOptions& options,
                                          std::vector<FlatRange> ranges);

}  // namespace sft::optim
