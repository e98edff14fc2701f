// The syntax of run.ini: `key = value` lines.
#pragma once

#include <string>
#include <vector>

namespace sft::config {

// One assignment and where it stands ("run.ini:12" or "command line").
struct Assignment {
  std::string key, value, where;
};

// `#` starts a comment at a line's start or after white space; quotes ('...' or "...") keep everything
// between them. Lines up to 64 KiB, text up to 1 MiB. Problems are appended to `problems`, each naming file
// and line; the rest is still read.
std::vector<Assignment> parse_ini(const std::string& file_name, const std::string& text,
                                  std::vector<std::string>& problems);

// "key=value" of the command line.
Assignment parse_setting(const std::string& setting);

}  // namespace sft::config
