// Everything that changes while a run trains, besides parameters and optimizer state. Written to and read
// from every checkpoint.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sft/data/loader.h"
#include "sft/engine/engine.h"
#include "sft/train/best_model.h"
#include "sft/train/spike.h"
#include "sft/train/token_metrics.h"

namespace sft::train {

struct TrainState {
  int64_t step =
      0;  // steps done; a skipped (non-finite) step counts, the optimizer's own count does not move
  data::Cursor cursor;  // where the next window starts
  double epoch =
      0;  // as transformers counts it: epochs done, with the fraction of micro-batches of the current one
  int64_t optimizer_steps = 0;  // updates made
  std::vector<double> optimizer_scalars;  // Optimizer::scalars()
  int64_t num_tokens = 0;       // tokens trained on, over all ranks
  double total_flos = 0;
  int64_t non_finite_in_row = 0;  // skipped steps since the last good one
  int64_t non_finite_total = 0;
  SpikeHistory spikes;         // finite steps without an update
  double loss_sum = 0;         // of the finite steps' losses, for train_loss
  double window_loss_sum = 0;  // the same since the last log entry
  int64_t window_steps = 0;    // finite steps since then
  BestModel best;
  TokenMetrics window_tokens;  // of those steps
  engine::AuxLoss window_aux_loss;  // likewise

  // JSON object; doubles survive the round trip bit for bit.
  std::string to_json() const;
  // Error(kInvalidData) naming the missing or wrong key.
  static TrainState from_json(const std::string& text);
};

}  // namespace sft::train
