#include "ini.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <sstream>

#include "sft/base/log.h"
#include "words.h"

namespace sft::config {
namespace {

constexpr std::size_t kMaxLineBytes = 64 << 10, kMaxTextBytes = 1 << 20;
constexpr const char* kByteOrderMark = "\xEF\xBB\xBF";

enum class Comments { kAllowed, kNone };

std::string key_of(const std::string& text) {
  std::string key = trim(text);
  std::replace(key.begin(), key.end(), '-', '_');
  return key;
}

std::string without_comment(const std::string& text) {
  for (auto hash = text.find('#'); hash != std::string::npos; hash = text.find('#', hash + 1)) {
    if (hash == 0 || text[hash - 1] == ' ' || text[hash - 1] == '\t') return trim(text.substr(0, hash));
  }
  return text;
}

char escaped(char c) {
  return c == 'n' ? '\n' : c == 't' ? '\t' : c;
}

// A value that begins with a quote; nothing when the quote is not closed or is followed by more than a
// comment.
std::optional<RawValue> read_quoted(const std::string& text, Comments comments) {
  const char quote = text.front();
  RawValue value{"", true};
  std::size_t i = 1;
  for (; i < text.size() && text[i] != quote; ++i) {
    const bool escape = quote == '"' && text[i] == '\\' && i + 1 < text.size();
    value.text += escape ? escaped(text[++i]) : text[i];
  }
  if (i >= text.size()) return std::nullopt;
  const std::string rest = text.substr(i + 1);
  const bool only_comment = comments == Comments::kAllowed && without_comment(rest).empty();
  return rest.empty() || only_comment ? std::optional(value) : std::nullopt;
}

std::optional<RawValue> read_value(const std::string& raw, Comments comments) {
  const std::string text = trim(raw);
  if (!text.empty() && (text.front() == '"' || text.front() == '\'')) return read_quoted(text, comments);
  return RawValue{comments == Comments::kAllowed ? without_comment(text) : text, false};
}

bool has_control_character(const std::string& text) {
  return std::any_of(text.begin(), text.end(),
                     [](unsigned char c) { return (c < 0x20 && c != '\t') || c == 0x7f; });
}

std::string bad_quotes(const std::string& where, const std::string& key) {
  return fmt::format("{}: {}: quotes are not closed, or something follows them", where, log::printable(key));
}

// One line that is neither blank nor a comment. Returns what is wrong with it, or nothing.
std::optional<std::string> read_line(const std::string& line, Assignment& assignment) {
  const std::string content = trim(line);
  if (line.size() > kMaxLineBytes) return fmt::format("{}: a line of more than 64 KiB", assignment.where);
  if (has_control_character(content))
    return fmt::format("{}: control characters; is this a text file?", assignment.where);
  if (content.front() == '[') {
    return fmt::format("{}: {}: there are no sections; write lines key = value", assignment.where,
                       log::printable(content.substr(0, 60)));
  }
  const auto equals = content.find('=');
  if (equals != std::string::npos) assignment.key = key_of(content.substr(0, equals));
  if (assignment.key.empty()) {
    return fmt::format("{}: '{}' is not of the form key = value", assignment.where,
                       log::printable(content.substr(0, 60)));
  }
  const auto value = read_value(content.substr(equals + 1), Comments::kAllowed);
  if (!value) return bad_quotes(assignment.where, assignment.key);
  assignment.value = *value;
  return std::nullopt;
}

}  // namespace

std::vector<Assignment> parse_ini(const std::string& file_name, const std::string& text,
                                  std::vector<std::string>& problems) {
  std::vector<Assignment> assignments;
  if (text.size() > kMaxTextBytes) {
    problems.push_back(fmt::format("{}: more than 1 MiB; this is no file of options", file_name));
    return assignments;
  }
  std::istringstream lines(text.starts_with(kByteOrderMark) ? text.substr(3) : text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    Assignment assignment;
    assignment.where = fmt::format("{}:{}", file_name, ++number);
    const std::string content = trim(line);
    if (content.empty() || content.front() == '#') continue;
    if (const auto problem = read_line(line, assignment)) {
      problems.push_back(*problem);
    } else {
      assignments.push_back(std::move(assignment));
    }
  }
  return assignments;
}

Assignment parse_setting(const std::string& setting, std::vector<std::string>& problems) {
  const auto equals = setting.find('=');
  Assignment assignment{key_of(setting.substr(0, equals)), {}, "command line"};
  if (equals == std::string::npos || assignment.key.empty()) {
    problems.push_back(
        fmt::format("command line: '{}' is not of the form key=value", log::printable(setting)));
  } else if (const auto value = read_value(setting.substr(equals + 1), Comments::kNone)) {
    assignment.value = *value;
  } else {
    problems.push_back(bad_quotes(assignment.where, assignment.key));
  }
  return assignment;
}

std::string quoted_where_needed(const std::string& text) {
  const bool plain = !text.empty() && trim(text) == text && text.front() != '"' && text.front() != '\'' &&
                     without_comment(text) == text && !is_none(text) && !has_control_character(text) &&
                     text.find('\t') == std::string::npos;
  if (plain) return text;
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result += '\\';
    result += c == '\n' ? "\\n" : c == '\t' ? "\\t" : std::string(1, c);
  }
  return result + '"';
}

}  // namespace sft::config
