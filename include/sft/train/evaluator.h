// The loss on an evaluation set.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sft/data/dataset.h"
#include "sft/data/sampler.h"
#include "sft/engine/engine.h"
#include "sft/metrics/log.h"
#include "sft/parallel/communicator.h"
#include "sft/train/token_metrics.h"

namespace sft::train {

struct EvaluatorOptions {
  std::string name;  // of the set, where there are several: its metrics are eval_<name>_loss ...
  int64_t per_device_eval_batch_size = 8;
  // Batches of at most this many tokens instead, as the training's; 0: by rows. Not with trl_compat.
  int64_t micro_batch_tokens = 0;
  // false: sums over all targets / number of targets, whatever the batch and world size.
  // true: what TRL reports, means of batch means (docs/numerics.md).
  bool trl_compat = false;
  bool drop_last = false;          // in trl_compat, rows that do not fill a batch on every rank are left out
  std::optional<uint64_t> length_grouped_seed = {};  // in trl_compat, rows are taken as transformers' LengthGroupedSampler gives them
  bool token_metrics = false;      // as the engine's LossOptions
  bool loss_is_perplexity = true;  // the loss is a plain cross-entropy
  // Above 0: eval_aux_loss, the mean of the micro-batches' load-balancing losses. Part of eval_loss in trl_compat only.
  double router_aux_loss_coef = 0;
};

class Evaluator {
 public:
  // Arguments outlive the evaluator.
  Evaluator(const data::TokenDataset& dataset, const EvaluatorOptions& options, engine::Engine& engine,
            parallel::Communicator& comm, base::PhaseTimers& timers);

  // Collective. eval_loss, eval_perplexity (loss_is_perplexity), eval_runtime (s), eval_samples_per_second,
  // eval_steps_per_second, eval_entropy and eval_mean_token_accuracy (token_metrics), eval_aux_loss
  // (router_aux_loss_coef); of a named set, eval_<name>_loss ...
  metrics::Values run();
  // Local. The names of what run() returns.
  std::vector<std::string> metric_names() const;
  int64_t num_rows() const { return dataset_.size(); }

 private:
  struct Means {
    double loss = 0;  // cross-entropy
    double weighted_aux_loss = 0;  // what eval_loss is more than that
    TokenMetrics tokens = {};
    engine::AuxLoss aux_loss = {};
  };
  metrics::Values values(const Means& means, double seconds) const;
  Means exact();
  Means as_trl();
  using Positions = std::vector<int64_t>;
  std::vector<Positions> batches() const;  // this rank's
  data::MicroBatch read(const Positions& positions) const;

  const data::TokenDataset& dataset_;
  engine::Engine& engine_;
  parallel::Communicator& comm_;
  base::PhaseTimers& timers_;
  EvaluatorOptions options_;
  std::string prefix_;  // "eval_" or "eval_<name>_"
  data::BatchLayout layout_;
  std::vector<int64_t> order_;  // rows by position; empty: as they come
};

}  // namespace sft::train
