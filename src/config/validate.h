// Options that contradict one another.
#pragma once

#include <string>
#include <vector>

#include "sft/config/options.h"

namespace sft::config {

// One message per contradiction; empty when the options go together.
std::vector<std::string> contradictions(const Options& options);

}  // namespace sft::config
