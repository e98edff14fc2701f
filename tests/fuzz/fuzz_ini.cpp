// run.ini: every value that is read is the same after being written and read again.
#include "config/ini.h"

#include "fuzz.h"

namespace config = sft::config;

void sft::fuzz::one_input(std::string_view input) {
  std::vector<std::string> problems;
  for (const config::Assignment& read : config::parse_ini("input", std::string(input), problems)) {
    sft::fuzz::require(!read.key.empty(), "a key");
    const std::string line = "key = " + config::quoted_where_needed(read.value.text);
    if (line.size() > (64 << 10)) continue;  // quoting made it too long
    std::vector<std::string> again_problems;
    const auto again = config::parse_ini("written", line, again_problems);
    sft::fuzz::require(again_problems.empty() && again.size() == 1 && again[0].value.text == read.value.text,
                       "writing and reading again");
  }
  problems.clear();
  config::parse_setting(std::string(input), problems);
}
