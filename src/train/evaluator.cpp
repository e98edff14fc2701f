#include "sft/train/evaluator.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>
#include <vector>

#include "sft/base/error.h"
#include "sft/data/token_groups.h"

namespace sft::train {

Evaluator::Evaluator(const data::TokenDataset& dataset, const EvaluatorOptions& options,
                     engine::Engine& engine, parallel::Communicator& comm, base::PhaseTimers& timers)
    : dataset_(dataset),
      engine_(engine),
      comm_(comm),
      timers_(timers),
      options_(options),
      prefix_(options.name.empty() ? "eval_" : "eval_" + options.name + "_") {
  layout_ = {.num_rows = dataset.size(),
             .micro_batch_size = options.per_device_eval_batch_size,
             .world_size = comm.size(),
             .drop_last = options.trl_compat && options.drop_last,
             .wrap_around = options.trl_compat};
  if (layout_.micro_steps_per_epoch() == 0) {
    throw base::Error(
        base::ExitCode::kConfig,
        fmt::format(
            "dataloader_drop_last = true with trl_compat = true leaves nothing of an evaluation set of {} "
            "rows: they do not fill a batch of {} on each of {} ranks",
            dataset.size(), options.per_device_eval_batch_size, comm.size()),
        base::SeenBy::kAllRanks);
  }
  if (options.length_grouped_seed) {
    const auto length = [&](int64_t row) { return dataset_.length(row); };
    order_ = data::group_by_length(data::torch_randperm(dataset.size(), *options.length_grouped_seed), length,
                                   options.per_device_eval_batch_size);
  }
}

std::vector<Evaluator::Positions> Evaluator::batches() const {
  const int64_t steps = layout_.micro_steps_per_epoch();
  if (options_.micro_batch_tokens == 0) {
    std::vector<Positions> by_rows;
    for (int64_t step = 0; step < steps; ++step)
      by_rows.push_back(data::micro_batch_positions(layout_, step, comm_.rank()));
    return by_rows;
  }
  Positions all;
  for (int64_t step = 0; step < steps; ++step) {
    for (int rank = 0; rank < comm_.size(); ++rank) {
      const Positions more = data::micro_batch_positions(layout_, step, rank);
      all.insert(all.end(), more.begin(), more.end());
    }
  }
  const auto length = [&](int64_t position) { return dataset_.length(position); };
  const std::vector<Positions> parts = data::deal_by_tokens(all, length, comm_.size());
  return data::group_by_tokens(parts[static_cast<std::size_t>(comm_.rank())], length,
                               options_.micro_batch_tokens);
}

data::MicroBatch Evaluator::read(const Positions& positions) const {
  std::vector<data::TokenRow> rows;
  for (const int64_t position : positions) {
    rows.push_back(dataset_.read(order_.empty() ? position : order_[static_cast<std::size_t>(position)]));
    rows.back().id.position = position;
  }
  return data::pack(rows);
}

Evaluator::Means Evaluator::exact() {
  engine::BatchSums mine;
  int64_t targets = 0;
  for (const Positions& positions : batches()) {
    const data::MicroBatch micro_batch = read(positions);
    const engine::BatchSums sums = engine_.evaluate(micro_batch);
    mine.loss += sums.loss;
    mine.tokens.num_right += sums.tokens.num_right;
    mine.tokens.entropy += sums.tokens.entropy;
    mine.aux_loss.sum += sums.aux_loss.sum;
    mine.aux_loss.count += sums.aux_loss.count;
    targets += micro_batch.num_targets();
  }
  std::array<double, 6> all{
      mine.loss,         static_cast<double>(targets), mine.tokens.num_right, mine.tokens.entropy,
      mine.aux_loss.sum, mine.aux_loss.count};
  comm_.all_reduce(std::span<double>(all));
  Means means{.loss = all[0] / std::max(1.0, all[1]), .aux_loss = {all[4], all[5]}};
  means.tokens.add(std::array{engine::TokenSums{all[1], all[2], all[3]}}, /*trl_compat=*/false);
  return means;
}

// Every rank's mean loss stands for batch_size rows, cut in the last step to the rows that exist. The token
// metrics of a step are means over its ranks' targets, of which the last step's are cut as the training's
// are.
Evaluator::Means Evaluator::as_trl() {
  const int64_t steps = layout_.micro_steps_per_epoch(), world_size = comm_.size(),
                batch_size = layout_.micro_batch_size;
  const int64_t num_rows = layout_.drop_last ? steps * world_size * batch_size : layout_.num_rows;
  const int64_t remainder = num_rows % (world_size * batch_size);
  const auto num_entries = static_cast<std::size_t>(steps * world_size);  // [step][rank]: each its own
  std::vector<double> losses(num_entries, 0.0), aux_losses(num_entries, 0.0);
  std::vector<double> tokens(static_cast<std::size_t>(steps) * 3, 0.0);
  std::array<double, 2> aux_loss{};
  for (int64_t step = 0; step < steps; ++step) {
    const data::MicroBatch micro_batch = read(data::micro_batch_positions(layout_, step, comm_.rank()));
    const engine::BatchSums sums = engine_.evaluate(micro_batch);
    const double targets = static_cast<double>(std::max<int64_t>(1, micro_batch.num_targets()));
    const auto entry = static_cast<std::size_t>(step * world_size + comm_.rank());
    losses[entry] = sums.loss / targets;
    aux_losses[entry] = sums.aux_loss.sum;
    if (step + 1 == steps && remainder > 0 && comm_.rank() >= remainder) continue;
    const auto at = static_cast<std::size_t>(step) * 3;
    tokens[at] = sums.tokens.num_targets;
    tokens[at + 1] = sums.tokens.num_right;
    tokens[at + 2] = sums.tokens.entropy;
    aux_loss[0] += sums.aux_loss.sum;
    aux_loss[1] += sums.aux_loss.count;
  }
  comm_.all_reduce(std::span<double>(losses));
  comm_.all_reduce(std::span<double>(aux_losses));
  comm_.all_reduce(std::span<double>(aux_loss));
  comm_.all_reduce(std::span<double>(tokens));

  Means means{.aux_loss = {aux_loss[0], aux_loss[1]}};
  int64_t finite_rows = 0;
  for (int64_t step = 0; step < steps; ++step) {
    int64_t rows_left = num_rows - step * world_size * batch_size;
    for (int64_t rank = 0; rank < world_size; ++rank, rows_left -= batch_size) {
      const int64_t weight = std::clamp<int64_t>(rows_left, 0, batch_size);
      const auto entry = static_cast<std::size_t>(step * world_size + rank);
      const double aux_loss_of_entry = options_.router_aux_loss_coef * aux_losses[entry];
      if (!std::isfinite(losses[entry] + aux_loss_of_entry)) continue;  // logging_nan_inf_filter
      finite_rows += weight;
      means.loss += static_cast<double>(weight) * losses[entry];
      means.weighted_aux_loss += static_cast<double>(weight) * aux_loss_of_entry;
    }
    const auto at = static_cast<std::size_t>(step) * 3;
    means.tokens.add(std::array{engine::TokenSums{tokens[at], tokens[at + 1], tokens[at + 2]}},
                     /*trl_compat=*/true);
  }
  means.loss /= static_cast<double>(finite_rows);  // of none: NaN
  means.weighted_aux_loss /= static_cast<double>(finite_rows);
  return means;
}

metrics::Values Evaluator::run() {
  const auto timed = timers_.scope(base::Phase::kEvaluation);
  const double start = base::monotonic_seconds();
  const Means means = options_.trl_compat ? as_trl() : exact();
  return values(means, base::monotonic_seconds() - start);
}

std::vector<std::string> Evaluator::metric_names() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : values({}, 1)) names.push_back(name);
  return names;
}

metrics::Values Evaluator::values(const Means& means, double seconds) const {
  metrics::Values values{{prefix_ + "loss", means.loss + means.weighted_aux_loss}};
  if (options_.loss_is_perplexity) values.emplace_back(prefix_ + "perplexity", std::exp(means.loss));
  values.emplace_back(prefix_ + "runtime", seconds);
  values.emplace_back(prefix_ + "samples_per_second", static_cast<double>(dataset_.size()) / seconds);
  values.emplace_back(prefix_ + "steps_per_second",
                      static_cast<double>(layout_.micro_steps_per_epoch()) / seconds);
  if (options_.token_metrics) {
    for (const auto& value : means.tokens.values(prefix_)) values.push_back(value);
  }
  if (options_.router_aux_loss_coef > 0) values.emplace_back(prefix_ + "aux_loss", means.aux_loss.mean());
  return values;
}

}  // namespace sft::train
