#include <chrono>
#include <nlohmann/json.hpp>
#include <optional>

#include "metrics/append_file.h"
#include "metrics/console.h"
#include "metrics/tensorboard.h"
#include "metrics/trainer_state.h"
#include "sft/base/error.h"
#include "sft/base/timer.h"
#include "sft/metrics/log.h"

namespace sft::metrics {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

// Other ranks'.
class NoLog final : public TrainLog {
 public:
  void table(const std::string&, const std::vector<std::pair<std::string, std::string>>&) override {}
  void progress(int64_t, double, double, double) override {}
  void entry(const std::string&, int64_t, double, const Values&) override {}
  void event(const std::string&, int64_t, const std::string&) override {}
  std::string trainer_state(const TrainerProgress&) const override { return ""; }
  void restore(const std::string&) override {}
  void flush() override {}
};

double unix_seconds() {
  const auto since = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<double>(std::chrono::duration_cast<std::chrono::milliseconds>(since).count()) / 1000.0;
}

// Bytes that are no UTF-8 (a path, perhaps) must not cost a run.
std::string line_of(const ordered_json& object) {
  return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

class RankZeroLog final : public TrainLog {
 public:
  explicit RankZeroLog(const LogOptions& options)
      : options_(options),
        console_(stdout, options.show_progress_bar, options.max_steps),
        lines_(options.output_dir / "trainer_log.jsonl", AppendFile::Kind::kLines) {
    if (options.tensorboard) tensorboard_.emplace(options.output_dir, options.run_name);
  }

  void table(const std::string& title,
             const std::vector<std::pair<std::string, std::string>>& rows) override {
    console_.table(title, rows);
  }

  void progress(int64_t step, double loss, double learning_rate, double tokens_per_second) override {
    console_.progress({step, loss, learning_rate, tokens_per_second}, base::monotonic_seconds());
  }

  void entry(const std::string& event, int64_t step, double epoch, const Values& values) override {
    console_.entry(event, step, epoch, values);
    const double now = unix_seconds();
    ordered_json line = {
        {"event", event}, {"step", step}, {"epoch", json_value("epoch", epoch)}, {"time", now}};
    json record = {{"step", step}, {"epoch", epoch}};
    std::vector<std::pair<std::string, double>> tags = {{"train/epoch", epoch}};
    for (const auto& [key, value] : values) {
      line[key] = json_value(key, value);
      record[key] = json(json_value(key, value));
      tags.emplace_back(tensorboard_tag(key), value);
    }
    lines_.append(line_of(line));
    history_.push_back(std::move(record));
    if (tensorboard_) tensorboard_->scalars(step, now, tags);
  }

  void event(const std::string& name, int64_t step, const std::string& details) override {
    ordered_json line = {{"event", name}, {"step", step}, {"time", unix_seconds()}};
    const ordered_json extra = ordered_json::parse(details, nullptr, /*allow_exceptions=*/false);
    if (!extra.is_object())
      base::fail(base::ExitCode::kInternal, "log event {}: details are no JSON object", name);
    for (const auto& [key, value] : extra.items()) {
      if (!line.contains(key)) line[key] = value;
    }
    lines_.append(line_of(line));
  }

  std::string trainer_state(const TrainerProgress& progress) const override {
    return trainer_state_json(options_, progress, history_);
  }

  void restore(const std::string& trainer_state_json) override {
    history_ = log_history_of(trainer_state_json);
  }

  void flush() override {
    console_.flush();
    lines_.sync();
    if (tensorboard_) tensorboard_->sync();
  }

 private:
  LogOptions options_;
  Console console_;
  AppendFile lines_;
  std::optional<TensorBoardFile> tensorboard_;
  json history_ = json::array();
};

}  // namespace

std::unique_ptr<TrainLog> TrainLog::open(const LogOptions& options) {
  if (options.rank != 0) return std::make_unique<NoLog>();
  return std::make_unique<RankZeroLog>(options);
}

}  // namespace sft::metrics
