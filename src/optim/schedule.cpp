// Formulas: transformers' optimization.py, where t counts optimizer steps done, w those of the warmup, T all
// of the run.
#include "sft/optim/schedule.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <optional>

#include "optim/option_kwargs.h"
#include "sft/base/error.h"

namespace sft::optim {
namespace {

using std::numbers::pi;
using Factor = std::function<double(int64_t)>;

struct Setting {
  double learning_rate;
  double warmup, total;  // steps
};

double warm(double t, double w) {
  return t / std::max(1.0, w);
}
double progress(double t, const Setting& s) {
  return (t - s.warmup) / std::max(1.0, s.total - s.warmup);
}
double half_cosine(double cycles, double p) {
  return 0.5 * (1.0 + std::cos(pi * cycles * 2.0 * p));
}

Factor constant(const Setting&, OptionKwargs&) {
  return [](int64_t) { return 1.0; };
}

Factor constant_with_warmup(const Setting& s, OptionKwargs&) {
  return [s](int64_t step) {
    const auto t = static_cast<double>(step);
    return t < s.warmup ? warm(t, s.warmup) : 1.0;
  };
}

Factor linear(const Setting& s, OptionKwargs&) {
  return [s](int64_t step) {
    const auto t = static_cast<double>(step);
    if (t < s.warmup) return warm(t, s.warmup);
    return std::max(0.0, (s.total - t) / std::max(1.0, s.total - s.warmup));
  };
}

Factor cosine_between(const Setting& s, double cycles, double min_rate) {
  return [s, cycles, min_rate](int64_t step) {
    const auto t = static_cast<double>(step);
    if (t < s.warmup) return warm(t, s.warmup);
    return std::max(0.0, half_cosine(cycles, progress(t, s)) * (1.0 - min_rate) + min_rate);
  };
}

Factor cosine(const Setting& s, OptionKwargs& kwargs) {
  return cosine_between(s, kwargs.non_negative("num_cycles", 0.5), 0.0);
}

Factor cosine_with_restarts(const Setting& s, OptionKwargs& kwargs) {
  const double cycles = kwargs.non_negative("num_cycles", 1.0);
  return [s, cycles](int64_t step) {
    const auto t = static_cast<double>(step);
    if (t < s.warmup) return warm(t, s.warmup);
    const double p = progress(t, s);
    if (p >= 1.0) return 0.0;
    return std::max(0.0, 0.5 * (1.0 + std::cos(pi * std::fmod(cycles * p, 1.0))));
  };
}

Factor polynomial(const Setting& s, OptionKwargs& kwargs) {
  const double end = kwargs.non_negative("lr_end", 1e-7), power = kwargs.number("power", 1.0);
  if (!(s.learning_rate > end)) {
    kwargs.complain(fmt::format("lr_end = {} must be smaller than learning_rate = {}", end, s.learning_rate));
  }
  return [s, end, power](int64_t step) {
    const auto t = static_cast<double>(step);
    if (t < s.warmup) return warm(t, s.warmup);
    // Also keeps T = w from dividing by zero.
    if (t > s.total || s.total == s.warmup) return end / s.learning_rate;
    const double remaining = 1.0 - (t - s.warmup) / (s.total - s.warmup);
    return ((s.learning_rate - end) * std::pow(remaining, power) + end) / s.learning_rate;
  };
}

Factor inverse_sqrt(const Setting& s, OptionKwargs& kwargs) {
  const double timescale = kwargs.number("timescale", s.warmup > 0 ? s.warmup : 10000.0);
  if (!(timescale > 0)) kwargs.complain(fmt::format("timescale = {} must be positive", timescale));
  return [s, timescale](int64_t step) {
    const auto t = static_cast<double>(step);
    if (t < s.warmup) return warm(t, s.warmup);
    return 1.0 / std::sqrt((t + (timescale - s.warmup)) / timescale);
  };
}

double min_rate(const Setting& s, OptionKwargs& kwargs) {
  const std::optional<double> rate = kwargs.number("min_lr"), ratio = kwargs.number("min_lr_rate");
  if (rate.has_value() == ratio.has_value())
    kwargs.complain("exactly one of min_lr and min_lr_rate is needed");
  return rate ? *rate / s.learning_rate : *ratio;
}

Factor cosine_with_min_lr(const Setting& s, OptionKwargs& kwargs) {
  const double rate = min_rate(s, kwargs);
  return cosine_between(s, kwargs.non_negative("num_cycles", 0.5), rate);
}

Factor cosine_warmup_with_min_lr(const Setting& s, OptionKwargs& kwargs) {
  const double rate = min_rate(s, kwargs), cycles = kwargs.non_negative("num_cycles", 0.5);
  const std::optional<double> start = kwargs.number("warmup_lr_rate");
  return [s, rate, cycles, start](int64_t step) {
    const auto t = static_cast<double>(step);
    if (t < s.warmup) {
      if (!start) return warm(t + 1.0, s.warmup);
      return *start + (1.0 - *start) * t / std::max(1.0, s.warmup - 1.0);
    }
    return std::max(0.0, half_cosine(cycles, progress(t + 1.0, s)) * (1.0 - rate) + rate);
  };
}

Factor warmup_stable_decay(const Setting& s, OptionKwargs& kwargs) {
  const std::optional<double> decay = kwargs.number("num_decay_steps");
  if (!decay || *decay < 0) kwargs.complain("num_decay_steps is needed, and not negative");
  const double stable_end = s.warmup + kwargs.number("num_stable_steps", s.total - s.warmup - *decay);
  const std::vector<std::string> shapes = {"linear", "cosine", "1-sqrt"};
  const std::string warmup_type = kwargs.one_of("warmup_type", "linear", shapes);
  const std::string decay_type = kwargs.one_of("decay_type", "cosine", shapes);
  const double floor = kwargs.number("min_lr_ratio", 0.0), cycles = kwargs.non_negative("num_cycles", 0.5);
  return [=, decay_steps = *decay](int64_t step) {
    const auto t = static_cast<double>(step);
    const auto above_floor = [floor](double f) { return std::max(0.0, f * (1.0 - floor) + floor); };
    if (t < s.warmup) {
      const double p = warm(t, s.warmup);
      if (warmup_type == "linear") return above_floor(p);
      return above_floor(warmup_type == "cosine" ? 0.5 * (1.0 - std::cos(pi * p)) : 1.0 - std::sqrt(1.0 - p));
    }
    if (t < stable_end) return 1.0;
    if (t >= stable_end + decay_steps) return floor;
    const double p = (t - stable_end) / std::max(1.0, decay_steps);
    if (decay_type == "linear") return above_floor(1.0 - p);
    return above_floor(decay_type == "cosine" ? half_cosine(cycles, p) : 1.0 - std::sqrt(p));
  };
}

const std::map<std::string, Factor (*)(const Setting&, OptionKwargs&)> kSchedules = {
    {"linear", linear},
    {"cosine", cosine},
    {"cosine_with_restarts", cosine_with_restarts},
    {"polynomial", polynomial},
    {"constant", constant},
    {"constant_with_warmup", constant_with_warmup},
    {"inverse_sqrt", inverse_sqrt},
    {"cosine_with_min_lr", cosine_with_min_lr},
    {"cosine_warmup_with_min_lr", cosine_warmup_with_min_lr},
    {"warmup_stable_decay", warmup_stable_decay},
};

// TrainingArguments.get_warmup_steps.
int64_t resolve_warmup(double warmup_steps, int64_t max_steps) {
  if (!(warmup_steps >= 0)) {
    base::fail(base::ExitCode::kConfig, "warmup_steps = {} must not be negative", warmup_steps);
  }
  return static_cast<int64_t>(warmup_steps >= 1 ? warmup_steps
                                                : std::ceil(static_cast<double>(max_steps) * warmup_steps));
}

}  // namespace

Schedule::Schedule(const config::ScheduleOptions& options, double learning_rate, int64_t max_steps)
    : learning_rate_(learning_rate), warmup_steps_(resolve_warmup(options.warmup_steps, max_steps)) {
  const auto found = kSchedules.find(options.lr_scheduler_type);
  if (found == kSchedules.end()) {
    std::vector<std::string> names;
    for (const auto& [name, make] : kSchedules) names.push_back(name);
    base::fail(base::ExitCode::kConfig, "lr_scheduler_type = {}: allowed are {}", options.lr_scheduler_type,
               fmt::join(names, ", "));
  }
  OptionKwargs kwargs("lr_scheduler_kwargs", options.lr_scheduler_type, options.lr_scheduler_kwargs);
  factor_ = found->second({learning_rate, static_cast<double>(warmup_steps_), static_cast<double>(max_steps)},
                          kwargs);
  kwargs.check_nothing_left();
}

}  // namespace sft::optim
