#include "skipped_step.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <string>

#include "sft/base/log.h"

namespace sft::train {
namespace {

nlohmann::json details_of(const data::Window& window, int64_t in_row) {
  return {{"rows", window.global_rows}, {"epoch", window.begin.epoch}, {"in_row", in_row}};
}

void warn(const parallel::Communicator& comm, int64_t step, const std::string& why,
          const data::Window& window) {
  if (comm.rank() != 0) return;
  log::warning("step {}: {}; no update made. Epoch {}, data set rows: {}", step, why, window.begin.epoch,
               fmt::join(window.global_rows, " "));
}

}  // namespace

void report_non_finite(metrics::TrainLog& log, const parallel::Communicator& comm, const TrainState& state,
                       const data::Window& window, const engine::StepMetrics& metrics) {
  nlohmann::json details = details_of(window, state.non_finite_in_row);
  details["loss"] = fmt::format("{}", metrics.loss);
  details["grad_norm"] = fmt::format("{}", metrics.grad_norm);
  log.event("non_finite_step", state.step + 1, details.dump());
  warn(comm, state.step + 1,
       fmt::format("loss or gradient is not finite (loss {}, gradient norm {})", metrics.loss,
                   metrics.grad_norm),
       window);
}

void report_spike(metrics::TrainLog& log, const parallel::Communicator& comm, const TrainState& state,
                  const data::Window& window, const engine::StepMetrics& metrics, const Spike& spike) {
  nlohmann::json details = details_of(window, state.spikes.in_row);
  details["loss"] = metrics.loss;
  details["grad_norm"] = metrics.grad_norm;
  details["mean"] = spike.mean;
  details["deviation"] = spike.deviation;
  details["limit"] = spike.limit;
  log.event("spike_step", state.step + 1, details.dump());
  warn(comm, state.step + 1,
       fmt::format(
           "gradient norm {:.4g} is above {:.4g} (skip_spike_zscore over a mean of {:.4g} with deviation "
           "{:.4g})",
           metrics.grad_norm, spike.limit, spike.mean, spike.deviation),
       window);
}

}  // namespace sft::train
