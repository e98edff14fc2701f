// AdamW without a schedule (Defazio et al., "The road less scheduled", arXiv 2405.15682), as the schedulefree package's
// AdamWScheduleFree, which transformers makes for optim = schedule_free_adamw.
//
// While it trains, parameters are y, where gradients are taken; the model to evaluate and to save is the average x.
// optim_args: r and weight_lr_power, the weights of the average.
#pragma once

#include <memory>
#include <vector>

#include "sft/optim/optimizer.h"

namespace sft::optim {

std::unique_ptr<Optimizer> make_schedule_free_adamw(const config::OptimizerOptions& options,
                                                    std::vector<FlatRange> ranges, int64_t warmup_steps);

}  // namespace sft::optim
