#include "ini.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "sft/base/log.h"

namespace sft::config {
namespace {

constexpr std::size_t kMaxLine = 64 << 10, kMaxText = 1 << 20;
constexpr const char* kBlanks = " \t\r";

std::string trim(const std::string& text) {
  const auto first = text.find_first_not_of(kBlanks), last = text.find_last_not_of(kBlanks);
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

// Option names are accepted with dashes too.
std::string canonical_key(std::string key) {
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

// The value without its comment and quotes. Returns false for a quote that is not closed or is followed by
// something.
bool read_value(const std::string& raw, std::string& value) {
  const std::string text = trim(raw);
  if (!text.empty() && (text.front() == '"' || text.front() == '\'')) {
    const auto close = text.find(text.front(), 1);
    if (close == std::string::npos) return false;
    value = text.substr(1, close - 1);
    const std::string rest = trim(text.substr(close + 1));
    return rest.empty() || rest.front() == '#';
  }
  auto comment = text.find('#');
  while (comment != std::string::npos && comment > 0 && text[comment - 1] != ' ' &&
         text[comment - 1] != '\t') {
    comment = text.find('#', comment + 1);
  }
  value = trim(text.substr(0, comment));
  return true;
}

}  // namespace

std::vector<Assignment> parse_ini(const std::string& file_name, const std::string& text,
                                  std::vector<std::string>& problems) {
  std::vector<Assignment> assignments;
  if (text.size() > kMaxText) {
    problems.push_back(fmt::format("{}: more than 1 MiB; this is not a run.ini", file_name));
    return assignments;
  }
  std::map<std::string, int> first_line;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = fmt::format("{}:{}", file_name, ++number);
    const std::string content = trim(line);
    if (content.empty() || content.front() == '#') continue;
    const auto equals = content.find('=');
    Assignment assignment{equals == std::string::npos ? "" : canonical_key(trim(content.substr(0, equals))),
                          "", where};
    if (line.size() > kMaxLine) {
      problems.push_back(fmt::format("{}: line of more than 64 KiB", where));
    } else if (content.front() == '[') {
      problems.push_back(fmt::format("{}: {}: sections are not used; write key = value lines only", where,
                                     log::printable(content)));
    } else if (assignment.key.empty()) {
      problems.push_back(
          fmt::format("{}: '{}' is not of the form key = value", where, log::printable(content)));
    } else if (!read_value(content.substr(equals + 1), assignment.value)) {
      problems.push_back(fmt::format("{}: {}: the quotes are not closed, or something follows them", where,
                                     log::printable(assignment.key)));
    } else if (const auto [seen, fresh] = first_line.emplace(assignment.key, number); !fresh) {
      problems.push_back(fmt::format("{}: {} was already set in line {}", where,
                                     log::printable(assignment.key), seen->second));
    } else {
      assignments.push_back(std::move(assignment));
    }
  }
  return assignments;
}

Assignment parse_setting(const std::string& setting) {
  const auto equals = setting.find('=');
  return {canonical_key(setting.substr(0, equals)),
          equals == std::string::npos ? "" : setting.substr(equals + 1), "command line"};
}

}  // namespace sft::config
