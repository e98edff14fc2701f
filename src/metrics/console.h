// What people see: the start table, one line per entry, and on a terminal a bar that stays at the bottom.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "sft/metrics/log.h"

namespace sft::metrics {

struct Progress {
  int64_t step = 0;
  double loss = 0, learning_rate = 0, tokens_per_second = 0;
};

class Console {
 public:
  // out: not owned. columns: 0 asks the terminal each time the bar is drawn.
  Console(std::FILE* out, bool show_bar, int64_t max_steps, int columns = 0);
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;
  ~Console();  // leaves the last bar standing

  void table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows);
  void entry(const std::string& event, int64_t step, double epoch, const Values& values);
  // now: seconds on the monotonic clock. Draws at most ten times a second, and at the last step.
  void progress(const Progress& progress, double now);
  void flush();

 private:
  void print(const std::string& lines);  // above the bar
  void draw();
  std::string bar_text(int columns) const;

  std::FILE* out_;
  bool show_bar_;
  int64_t max_steps_;
  int columns_;

  bool on_screen_ = false;
  Progress latest_;
  int64_t first_step_ = 0;
  double first_time_ = -1, latest_time_ = 0, drawn_time_ = -1;
};

// "1:02:03" or "02:03".
std::string clock_text(double seconds);
// Four significant digits; keys that count things ("num_...") whole.
std::string value_text(const std::string& key, double value);

}  // namespace sft::metrics
