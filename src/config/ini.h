// The syntax of run.ini: `key = value` lines.
#pragma once

#include <string>
#include <vector>

#include "value.h"

namespace sft::config {

// One assignment and where it stands: "run.ini:12" or "command line".
struct Assignment {
  std::string key;  // with underscores
  RawValue value;
  std::string where;
};

// Key and value around the first `=`. `#` starts a comment at a line's start or after white space. Quotes:
// between ' and ' everything stands for itself; between " and " \" \\ \n \t are read as in JSON. There are no
// [sections]. Lines up to 64 KiB, text up to 1 MiB, UTF-8 without
// control characters. Problems are appended to `problems`, each naming file and line; the other lines are
// still read.
std::vector<Assignment> parse_ini(const std::string& file_name, const std::string& text,
                                  std::vector<std::string>& problems);

// "key=value" from the command line: quotes as above, no comments.
Assignment parse_setting(const std::string& setting, std::vector<std::string>& problems);

// Text as parse_ini reads it back, in quotes where it would be taken for something else without them.
std::string quoted_where_needed(const std::string& text);

}  // namespace sft::config
