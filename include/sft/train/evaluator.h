// The loss on an evaluation set.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "sft/data/dataset.h"
#include "sft/data/sampler.h"
#include "sft/engine/engine.h"
#include "sft/metrics/log.h"
#include "sft/parallel/communicator.h"

namespace sft::train {

struct EvaluatorOptions {
  std::string name;  // of the set, where there are several: its metrics are eval_<name>_loss ...
  int64_t per_device_eval_batch_size = 8;
  // false: sum of cross-entropy over all targets / number of targets, whatever the batch and world size.
  // true: what TRL reports, a mean of per-rank batch means (docs/numerics.md).
  bool trl_compat = false;
};

class Evaluator {
 public:
  // Arguments outlive the evaluator.
  Evaluator(const data::TokenDataset& dataset, const EvaluatorOptions& options, engine::Engine& engine,
            parallel::Communicator& comm, base::PhaseTimers& timers);

  // Collective. eval_loss, eval_perplexity, eval_runtime (s), eval_samples_per_second, eval_steps_per_second;
  // of a named set, eval_<name>_loss ...
  metrics::Values run();
  int64_t num_rows() const { return dataset_.size(); }

 private:
  double exact_loss();
  double trl_loss();
  data::MicroBatch batch(int64_t micro_step) const;

  const data::TokenDataset& dataset_;
  engine::Engine& engine_;
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  std::string prefix_;  // "eval_" or "eval_<name>_"
  bool trl_compat_;
  data::BatchLayout layout_;
};

}  // namespace sft::train
