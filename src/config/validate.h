// Options that contradict one another.
#pragma once

#include <string>
#include <vector>

#include "sft/config/options.h"

namespace sft::config {

struct Contradiction {
  std::vector<std::string> options;  // the names of those involved
  std::string text;
};
std::vector<Contradiction> contradictions(const Options& options);

// Not wrong, but perhaps not meant.
std::vector<std::string> doubts(const Options& options);

// Throws Error(kConfig) with all problems, when there is one.
void throw_problems(const std::vector<std::string>& problems);

}  // namespace sft::config
