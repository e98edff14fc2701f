#include "metrics/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include "sft/base/log.h"

namespace sft::metrics {
namespace {

constexpr int kDefaultColumns = 80;
constexpr double kSecondsBetweenDraws = 0.1;
constexpr std::string_view kEraseLine = "\r\x1b[2K";

int terminal_columns(std::FILE* out) {
  winsize size{};
  if (::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  // mpirun's pseudo-terminal has no width; shells that export theirs help.
  const char* columns = std::getenv("COLUMNS");
  const int value = columns == nullptr ? 0 : std::atoi(columns);
  return value > 0 ? value : kDefaultColumns;
}

// Words of text in lines of at most `width` characters; a longer word has a line of its own.
std::vector<std::string> wrapped(const std::string& text, std::size_t width) {
  std::vector<std::string> lines = {""};
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += word;
    begin = end + 1;
  }
  return lines;
}

}  // namespace

std::string clock_text(double seconds) {
  const auto whole = static_cast<int64_t>(std::max(0.0, seconds));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  if (hours > 0) return fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60);
  return fmt::format("{:02}:{:02}", minutes, whole % 60);
}

std::string value_text(const std::string& key, double value) {
  if (key.starts_with("num_") && std::isfinite(value)) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

Console::Console(std::FILE* out, bool show_bar, int64_t max_steps, int columns)
    : out_(out), show_bar_(show_bar), max_steps_(max_steps), columns_(columns) {}

Console::~Console() {
  if (on_screen_) std::fputs("\n", out_);
  std::fflush(out_);
}

void Console::table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows) {
  std::size_t key_width = 0;
  for (const auto& [key, value] : rows) key_width = std::max(key_width, key.size());
  const std::size_t indent = key_width + 4;
  const std::size_t value_width = kDefaultColumns - std::min<std::size_t>(indent, kDefaultColumns - 20);
  std::string text = log::printable(title) + "\n";
  for (const auto& [key, value] : rows) {
    std::string start = fmt::format("  {:<{}}  ", log::printable(key), key_width);
    for (const std::string& line : wrapped(log::printable(value), value_width)) {
      text += start + line + "\n";
      start.assign(indent, ' ');
    }
  }
  print(text);
}

void Console::entry(const std::string& event, int64_t step, double epoch, const Values& values) {
  const auto width = static_cast<int>(std::to_string(max_steps_).size());
  std::string line = fmt::format("{:<7} {:>{}}/{}  epoch {:.4g}", event, step, width, max_steps_, epoch);
  for (const auto& [key, value] : values) line += fmt::format("  {} {}", key, value_text(key, value));
  print(line + "\n");
}

void Console::progress(const Progress& progress, double now) {
  if (!show_bar_) return;
  if (first_time_ < 0) {
    first_time_ = now;
    first_step_ = progress.step;
  }
  latest_ = progress;
  latest_time_ = now;
  if (drawn_time_ >= 0 && now - drawn_time_ < kSecondsBetweenDraws && progress.step < max_steps_) return;
  drawn_time_ = now;
  draw();
}

void Console::flush() {
  std::fflush(out_);
}

void Console::print(const std::string& lines) {
  if (on_screen_) std::fwrite(kEraseLine.data(), 1, kEraseLine.size(), out_);
  std::fputs(lines.c_str(), out_);
  if (on_screen_) draw();
  std::fflush(out_);
}

void Console::draw() {
  const int columns = columns_ > 0 ? columns_ : terminal_columns(out_);
  const std::string text = std::string(kEraseLine) + bar_text(columns);
  std::fputs(text.c_str(), out_);
  std::fflush(out_);
  on_screen_ = true;
}

std::string Console::bar_text(int columns) const {
  const double elapsed = latest_time_ - first_time_;
  const int64_t done = latest_.step - first_step_, left = std::max<int64_t>(0, max_steps_ - latest_.step);
  const std::string rest = left == 0 ? "00:00"
                           : done > 0
                               ? clock_text(elapsed / static_cast<double>(done) * static_cast<double>(left))
                               : "?";
  const double share =
      max_steps_ > 0
          ? std::clamp(static_cast<double>(latest_.step) / static_cast<double>(max_steps_), 0.0, 1.0)
          : 0.0;
  const std::string before = fmt::format("{:3.0f}% ", std::floor(share * 100));
  const std::string after =
      fmt::format(" {}/{} loss {:.4g} lr {:.3g} {:.0f} tok/s {}<{}", latest_.step, max_steps_, latest_.loss,
                  latest_.learning_rate, latest_.tokens_per_second, clock_text(elapsed), rest);
  // The last column stays free: some terminals wrap when it is written.
  const int room = columns - 1 - static_cast<int>(before.size() + after.size()) - 2;
  std::string bar;
  if (room >= 5) {
    const auto filled = static_cast<std::size_t>(share * room);
    bar = fmt::format("[{:#<{}}{:.<{}}]", "", filled, "", static_cast<std::size_t>(room) - filled);
  }
  return (before + bar + after).substr(0, static_cast<std::size_t>(std::max(1, columns - 1)));
}

}  // namespace sft::metrics
