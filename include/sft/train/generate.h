// A greedy continuation, to see what a model has learnt. No cache of keys and values: for a sample, not for
// serving.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "sft/parallel/communicator.h"

namespace sft::train {

// Local. The ids that follow `prompt` (not empty), at most max_new_tokens, up to and without an eos id of the
// model's configuration. `comm` is a world of one.
std::vector<int64_t> generate_greedily(const std::filesystem::path& model_dir, std::vector<int64_t> prompt,
                                       int64_t max_new_tokens, parallel::Communicator& comm);

}  // namespace sft::train
