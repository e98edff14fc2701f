// The kinds of checks that rows of the option table use.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "option_table.h"

namespace sft::config {

Rule at_least(int64_t minimum);
Rule between(int64_t minimum, int64_t maximum);
Rule above(int64_t bound);
Rule in_half_open_unit();  // [0, 1)
Rule steps();              // whole steps, or a fraction of all steps below 1
Rule split_size();         // whole rows, or a share of all rows below 1
Rule seed();               // what torch and numpy both take
Rule one_of(std::vector<std::string> choices, std::vector<std::pair<std::string, std::string>> synonyms = {});
Rule list_of(std::vector<std::string> choices);
Rule names();       // a,b,c
Rule key_values();  // JSON object, or key=value,...
Rule size();        // 5GB, 500MB, ...
Rule path();
Rule named_paths_rule();
Rule mixture_rule();
Rule folder_or_name();
Rule python_function();
Rule resume();

}  // namespace sft::config
