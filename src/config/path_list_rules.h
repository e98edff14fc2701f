// Whether text is what an option that lists files takes.
#pragma once

#include <string>

namespace sft::config {

bool are_named_paths(const std::string& text);  // several paths have a name each, no two the same
bool is_mixture(const std::string& text);       // all have a fraction above 0, or none has one

}  // namespace sft::config
