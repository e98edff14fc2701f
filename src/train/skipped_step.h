// What is said of a step whose update is not made: an event and a warning that name its rows.
#pragma once

#include "sft/data/loader.h"
#include "sft/engine/engine.h"
#include "sft/metrics/log.h"
#include "sft/parallel/communicator.h"
#include "sft/train/train_state.h"

namespace sft::train {

// Local; rank 0 speaks. `state` is that before the step, which counts the skipped step already.
void report_non_finite(metrics::TrainLog& log, const parallel::Communicator& comm, const TrainState& state,
                       const data::Window& window, const engine::StepMetrics& metrics);
void report_spike(metrics::TrainLog& log, const parallel::Communicator& comm, const TrainState& state,
                  const data::Window& window, const engine::StepMetrics& metrics, const Spike& spike);

}  // namespace sft::train
