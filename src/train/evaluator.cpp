#include "sft/train/evaluator.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace sft::train {

Evaluator::Evaluator(const data::TokenDataset& dataset, const EvaluatorOptions& options,
                     engine::Engine& engine, parallel::Communicator& comm, base::PhaseTimers& timers)
    : dataset_(dataset),
      engine_(engine),
      comm_(comm),
      timers_(timers),
      prefix_(options.name.empty() ? "eval_" : "eval_" + options.name + "_"),
      trl_compat_(options.trl_compat) {
  layout_ = {.num_rows = dataset.size(),
             .micro_batch_size = options.per_device_eval_batch_size,
             .world_size = comm.size(),
             .wrap_around = options.trl_compat};
}

data::MicroBatch Evaluator::batch(int64_t micro_step) const {
  std::vector<data::TokenRow> rows;
  for (const int64_t position : data::micro_batch_positions(layout_, micro_step, comm_.rank())) {
    rows.push_back(dataset_.read(position));
    rows.back().id.position = position;
  }
  return data::pack(rows);
}

double Evaluator::exact_loss() {
  double loss_sum = 0;
  int64_t targets = 0;
  for (int64_t step = 0; step < layout_.micro_steps_per_epoch(); ++step) {
    const data::MicroBatch micro_batch = batch(step);
    loss_sum += engine_.evaluate(micro_batch);
    targets += micro_batch.num_targets();
  }
  return comm_.sum(loss_sum) / static_cast<double>(std::max<int64_t>(1, comm_.sum(targets)));
}

double Evaluator::trl_loss() {
  const int64_t steps = layout_.micro_steps_per_epoch(), world_size = comm_.size(),
                batch_size = layout_.micro_batch_size;
  std::vector<double> means(static_cast<std::size_t>(steps * world_size),
                            0.0);  // [step][rank]; each rank fills its own
  for (int64_t step = 0; step < steps; ++step) {
    const data::MicroBatch micro_batch = batch(step);
    const double targets = static_cast<double>(std::max<int64_t>(1, micro_batch.num_targets()));
    means[static_cast<std::size_t>(step * world_size + comm_.rank())] =
        engine_.evaluate(micro_batch) / targets;
  }
  comm_.all_reduce(means);

  // Every mean stands for batch_size rows; the last step is cut to the rows that exist.
  double weighted = 0;
  for (int64_t step = 0; step < steps; ++step) {
    int64_t rows_left = layout_.num_rows - step * world_size * batch_size;
    for (int64_t rank = 0; rank < world_size; ++rank, rows_left -= batch_size) {
      const int64_t weight = std::clamp<int64_t>(rows_left, 0, batch_size);
      weighted += static_cast<double>(weight) * means[static_cast<std::size_t>(step * world_size + rank)];
    }
  }
  return weighted / static_cast<double>(layout_.num_rows);
}

metrics::Values Evaluator::run() {
  const auto timed = timers_.scope(base::Phase::kEvaluation);
  const double start = base::monotonic_seconds();
  const double loss = trl_compat_ ? trl_loss() : exact_loss();
  const double seconds = base::monotonic_seconds() - start;
  return {{prefix_ + "loss", loss},
          {prefix_ + "perplexity", std::exp(loss)},
          {prefix_ + "runtime", seconds},
          {prefix_ + "samples_per_second", static_cast<double>(dataset_.size()) / seconds},
          {prefix_ + "steps_per_second", static_cast<double>(layout_.micro_steps_per_epoch()) / seconds}};
}

}  // namespace sft::train
