// The name somebody may have meant.
#pragma once

#include <string>
#include <vector>

namespace sft::config {

// The option that a short name of other programs stands for; else the name with the smallest edit distance, or
// empty when none is near (more than a third of the letters differ). `ignored`: names without effect, of which only a slip of
// one letter is thought: whoever took the advice would believe to have set something.
std::string meant_name(const std::string& name, const std::vector<std::string>& names,
                       const std::vector<std::string>& ignored = {});

}  // namespace sft::config
