#include "sft/train/saver.h"

#include <nlohmann/json.hpp>

#include "sft/base/log.h"
#include "time_account.h"

namespace sft::train {

using base::ExitCode;

namespace {


std::string dump(const nlohmann::json& details) {
  return details.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace

Saver::Saver(const Parts& parts, int64_t storage_failures_max, std::optional<int64_t> saved_step)
    : parts_(parts), storage_failures_max_(storage_failures_max), saved_step_(saved_step) {}

TrainState Saver::as_saved(TrainState state) {
  if (state.best.step == state.step) state.best.checkpoint_step = state.step;
  return state;
}

bool Saver::has(int64_t step) const {
  return saved_step_ == step || (pending_ && pending_->step == step);
}

void Saver::save(TrainState& state, const checkpoint::Contents& contents, bool in_background) {
  const auto watched = parts_.watchdog.scope(base::Section::kCheckpoint);
  pending_ =
      Pending{.step = state.step, .is_best = state.best.step == state.step, .in_background = in_background};
  settle(state, [&]() -> std::optional<checkpoint::SaveReport> {
    if (!in_background) return parts_.checkpoints.save(contents);
    parts_.checkpoints.start_save(contents);
    return std::nullopt;
  });
  if (pending_) parts_.account.cut(state.step);
}

void Saver::advance(TrainState& state) {
  if (!pending_) return;
  settle(state, [&] { return parts_.checkpoints.advance(); });
}

void Saver::finish(TrainState& state) {
  if (!pending_) return;
  const auto watched = parts_.watchdog.scope(base::Section::kCheckpoint);
  settle(state, [&] { return std::optional(parts_.checkpoints.finish_save()); });
}

void Saver::save_last(TrainState& state, const checkpoint::Contents& contents) {
  save(state, contents, /*in_background=*/false);
  if (saved_step_ == state.step) return;
  throw base::Error(ExitCode::kStorage,
                    last_failure_ + "; the run stops without it, earlier checkpoints are intact",
                    base::SeenBy::kAllRanks);
}

void Saver::settle(TrainState& state, const std::function<std::optional<checkpoint::SaveReport>()>& action) {
  const auto timed = parts_.timers.scope(base::Phase::kCheckpoint);
  const double began = base::monotonic_seconds();
  try {
    const std::optional<checkpoint::SaveReport> report = action();
    pending_->stall_seconds += base::monotonic_seconds() - began;
    if (report) committed(state, *report);
  } catch (const checkpoint::SaveFailed& failure) {
    log_failure(failure);
  } catch (...) {
    pending_.reset();
    throw;
  }
}

void Saver::committed(TrainState& state, const checkpoint::SaveReport& report) {
  const Pending done = *pending_;
  pending_.reset();
  failures_in_row_ = 0;
  saved_step_ = done.step;
  if (done.is_best) state.best.checkpoint_step = done.step;
  parts_.log.event("checkpoint", done.step,
                   dump({{"path", report.path.string()},
                         {"bytes", report.bytes},
                         {"seconds", report.seconds},
                         {"stall_seconds", done.stall_seconds},
                         {"write_seconds", report.file_seconds},
                         {"in_background", done.in_background}}));
  if (parts_.comm.rank() == 0) {
    log::info("saved {} ({:.1f} MB in {:.1f} s{})", report.path.string(),
              static_cast<double>(report.bytes) / 1e6, report.seconds,
              done.in_background ? fmt::format(", {:.1f} s of it waited for", done.stall_seconds) : "");
  }
  parts_.account.committed(state.step, done.stall_seconds);
}

void Saver::log_failure(const checkpoint::SaveFailed& failure) {
  const int64_t step = pending_->step;
  pending_.reset();
  last_failure_ = failure.what();
  ++failures_in_row_;
  const checkpoint::Failure& first = failure.first();
  parts_.log.event("checkpoint_failed", step,
                   dump({{"rank", first.rank},
                         {"host", first.host},
                         {"file", first.file},
                         {"error", first.reason},
                         {"message", failure.what()},
                         {"failures_in_row", failures_in_row_}}));
  if (parts_.comm.rank() == 0)
    log::warning("{} ({} in a row; storage_failures_max = {})", failure.what(), failures_in_row_,
                 storage_failures_max_);
}

void Saver::check_storage() const {
  if (failures_in_row_ < storage_failures_max_) return;
  throw base::Error(
      ExitCode::kStorage,
      fmt::format("{} checkpoint{} in a row could not be written (storage_failures_max = {}); the last: {}. "
                  "Earlier checkpoints are intact: mend the storage, then go on with "
                  "resume_from_checkpoint = true",
                  failures_in_row_, failures_in_row_ == 1 ? "" : "s", storage_failures_max_, last_failure_),
      base::SeenBy::kAllRanks);
}

}  // namespace sft::train
