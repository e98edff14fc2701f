// Leveled messages for people, over spdlog (kept out of this header: it is heavy).
//
// Rank 0 writes everything at `level` and above to the console; other ranks only warnings and errors, prefixed [rank r host].
// Metrics do not go through here: see metrics/.
#pragma once

#include <fmt/core.h>

#include <string>
#include <string_view>
#include <utility>

namespace sft::log {

enum class Level { kDebug, kInfo, kWarning, kError };

// "debug", "info", "warning", "error"; anything else is info.
Level level_from_name(std::string_view name);

// Local. Before the call, messages go to stderr at info level without a rank.
void init(Level level, int rank, int world_size, const std::string& host);
void write(Level level, std::string_view message);

template <typename... Args>
void debug(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kDebug, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kInfo, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void warning(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kWarning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void error(fmt::format_string<Args...> format, Args&&... args) {
  write(Level::kError, fmt::format(format, std::forward<Args>(args)...));
}

// Control characters in text that came from a file, made harmless for a terminal.
std::string printable(std::string_view text);

}  // namespace sft::log
