// The name somebody may have meant.
#pragma once

#include <string>
#include <vector>

namespace sft::config {

// The option that a short name of other programs stands for; else the name with the smallest edit distance, or
// empty when none is near (more than a third of the letters differ).
std::string meant_name(const std::string& name, const std::vector<std::string>& names);

}  // namespace sft::config
