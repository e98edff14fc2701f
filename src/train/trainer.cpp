#include "sft/train/trainer.h"

#include <fmt/ranges.h>
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "model_work.h"
#include "process_clock.h"
#include "sft/base/activity.h"
#include "sft/base/checked.h"
#include "sft/base/log.h"
#include "sft/engine/replica_check.h"
#include "skipped_step.h"
#include "time_account.h"

namespace sft::train {

using base::ExitCode;
using base::Phase;

namespace {

void append(metrics::Values& values, const metrics::Values& more) {
  values.insert(values.end(), more.begin(), more.end());
}

}  // namespace

Trainer::Trainer(const TrainerParts& parts, TrainerOptions options)
    : parts_(parts),
      options_(std::move(options)),
      model_work_(model_work(parts.engine.decoder())),
      log_trigger_(options_.logging.logging_strategy, options_.plan.logging_steps),
      eval_trigger_(options_.eval.eval_strategy, options_.plan.eval_steps, options_.eval.eval_delay),
      save_trigger_(options_.save.save_strategy, options_.plan.save_steps),
      best_rule_(options_.best),
      spike_rule_(options_.skip_spike_zscore),
      stop_vote_(parts.signals, parts.comm),
      saver_({parts.comm, parts.checkpoints, parts.log, parts.watchdog, parts.timers, parts.account},
             options_.save.storage_failures_max, options_.resumed_step) {}

ExitCode Trainer::run(TrainState state) {
  try {
    return train(state);
  } catch (const base::Error& error) {
    if (error.seen_by() == base::SeenBy::kAllRanks) saver_.finish(state);  // what was copied is worth keeping
    throw;
  }
}

ExitCode Trainer::train(TrainState& state) {
  parts_.comm.check_same("training state", state.to_json());
  started_ = log_started_ = base::monotonic_seconds();
  first_step_ = state.step;
  first_num_tokens_ = log_num_tokens_ = state.num_tokens;
  first_row_ = rows_up_to(state.cursor);
  parts_.account.begin(state.step);
  if (options_.eval.eval_on_start && state.step == 0) {
    log_first_forward(state);
    evaluate(state);
  }
  if (finished(state) && parts_.comm.rank() == 0) {
    log::info("nothing is left to train: {}",
              is_last_step(state) ? fmt::format("all {} steps are done", state.step)
                                  : "early_stopping_patience is used up");
  }
  while (!finished(state)) {
    parts_.watchdog.enter(base::Section::kStep);
    activity::set_step(state.step + 1);
    const data::Window window = [&] {
      const auto timed = parts_.timers.scope(Phase::kData);
      return parts_.loader.next(state.cursor);
    }();
    const WindowCounts counts = count(window);
    if (!counts.is_writing) saver_.advance(state);
    if (counts.stop_requested) return save_and_leave(state, counts.final_stop);
    saver_.check_storage();

    log_first_forward(state);
    parts_.engine.zero_grad();
    const double scale = loss_scale(window, counts);
    for (std::size_t i = 0; i < window.micro_batches.size(); ++i) {
      const bool last = i + 1 == window.micro_batches.size();
      activity::set_micro_step(static_cast<int64_t>(i));
      if (!last) stop_vote_.ask();
      parts_.engine.forward_backward(window.micro_batches[i], scale, last, aux_scale(counts));
      if (!last && stop_vote_.answer()) return save_and_leave(state);  // the unfinished window is dropped
    }
    parts_.engine.finish_reduction();  // gradients are now sums over all ranks

    const engine::StepMetrics metrics = parts_.engine.metrics(/*count_tokens=*/!left_out_by_trl(window));
    const double learning_rate = parts_.schedule.at(state.step);
    if (metrics.finite) state.non_finite_in_row = 0;
    if (!metrics.finite) {
      skip_non_finite(state, window, metrics);
    } else if (const auto spike = spike_rule_.take(metrics.grad_norm, state.spikes)) {
      report_spike(parts_.log, parts_.comm, state, window, metrics, *spike);
    } else {
      update(state, metrics, learning_rate);
    }
    advance(state, window, counts);
    if (options_.check_replicas_steps > 0 && state.step % options_.check_replicas_steps == 0)
      engine::check_replicas(parts_.engine.replicas(), parts_.comm);
    log_flops_ += metrics::training_flops(model_work_, counts.work);
    parts_.account.add_work(metrics::training_flops(model_work_, counts.own_work));

    // The last step ends its epoch, wherever it lies in it, as in transformers.
    const bool epoch_ended = window.end.epoch != window.begin.epoch || is_last_step(state);
    const double loss = metrics.loss + options_.router_aux_loss_coef * metrics.aux_loss.mean();
    log_step(state, loss, metrics, learning_rate, epoch_ended);
    const bool evaluates = eval_trigger_.due(state.step, state.epoch, epoch_ended, is_last_step(state));
    const bool is_best = evaluates && evaluate_for_best(state);
    // A run that stops early ends its epoch there, as in transformers.
    if (best_rule_.stops(state.best) && options_.logging.logging_strategy == "epoch" && state.window_steps > 0) {
      const auto timed = parts_.timers.scope(Phase::kLogging);
      log_window(state, loss, metrics, learning_rate);
    }
    const bool saves =
        save_trigger_.due(state.step, state.epoch, epoch_ended || finished(state), is_last_step(state));
    if (counts.save_requested || saves || (is_best && options_.save.save_strategy == "best")) save(state);
  }
  return finish(state);
}

// TRL gathers one number per rank for each of its token metrics, and cuts the list to n mod (B W) entries in
// an epoch's last window.
bool Trainer::left_out_by_trl(const data::Window& window) const {
  const auto& layout = options_.plan.layout;
  if (!options_.trl_compat || layout.drop_last || window.end.epoch == window.begin.epoch) return false;
  const int64_t remainder = layout.num_rows % (layout.micro_batch_size * layout.world_size);
  return remainder > 0 && parts_.comm.rank() >= remainder;
}

Trainer::WindowCounts Trainer::count(const data::Window& window) {
  const auto timed = parts_.timers.scope(Phase::kCommunication);
  const int64_t num_tokens = left_out_by_trl(window) ? 0 : window.num_tokens;
  const metrics::StepWork own_work = step_work(window);
  const auto squared_lengths = static_cast<int64_t>(own_work.sum_squared_lengths);
  const auto num_micro_batches =
      std::count_if(window.micro_batches.begin(), window.micro_batches.end(),
                    [](const data::MicroBatch& batch) { return batch.num_tokens() > 0; });
  RunRequests::Asked asked;
  if (parts_.comm.rank() == 0) asked = parts_.requests.look();
  std::array<int64_t, 10> sums{window.num_targets,
                               window.num_first_labels,
                               num_tokens,
                               parts_.signals.requested() || asked.requeue || asked.stop ? 1 : 0,
                               asked.stop ? 1 : 0,
                               asked.save ? 1 : 0,
                               window.num_tokens,
                               squared_lengths,
                               num_micro_batches,
                               saver_.is_writing() ? 1 : 0};
  parts_.comm.all_reduce(sums);
  return {
      sums[0],
      sums[1],
      sums[2],
      sums[8],
      sums[3] > 0,
      sums[4] > 0,
      sums[5] > 0,
      sums[9] > 0,
      {.num_tokens = sums[6], .num_targets = sums[0], .sum_squared_lengths = static_cast<double>(sums[7])},
      own_work};
}

double Trainer::loss_scale(const data::Window& window, const WindowCounts& counts) const {
  const bool count_first = options_.trl_compat && parts_.engine.decoder().spec().hf_counts_first_label;
  const auto mean_over = [&](int64_t num_targets, int64_t num_first_labels) {
    const int64_t divisor = num_targets + (count_first ? num_first_labels : 0);
    return 1.0 / static_cast<double>(std::max<int64_t>(1, divisor));
  };
  if (options_.average_tokens_across_devices) return mean_over(counts.num_targets, counts.num_first_labels);
  return mean_over(window.num_targets, window.num_first_labels) / parts_.comm.size();
}

double Trainer::aux_scale(const WindowCounts& counts) const {
  return options_.router_aux_loss_coef / static_cast<double>(std::max<int64_t>(1, counts.num_micro_batches));
}

void Trainer::update(TrainState& state, const engine::StepMetrics& metrics, double learning_rate) {
  const auto timed = parts_.timers.scope(Phase::kOptimizer);
  parts_.optimizer.step(learning_rate, optim::clip_factor(metrics.grad_norm, options_.max_grad_norm));
  state.optimizer_steps = parts_.optimizer.step_count();
  state.optimizer_scalars = parts_.optimizer.scalars();
}

void Trainer::skip_non_finite(TrainState& state, const data::Window& window,
                              const engine::StepMetrics& metrics) {
  ++state.non_finite_in_row;
  ++state.non_finite_total;
  report_non_finite(parts_.log, parts_.comm, state, window, metrics);
  if (state.non_finite_in_row < options_.max_non_finite_steps) return;
  throw base::Error(
      ExitCode::kNonFinite,
      fmt::format(
          "{} steps in a row were not finite, the last one step {} (max_non_finite_steps = {}); the weights "
          "are those "
          "of the last good step's checkpoint. Try a lower learning_rate, or look at the rows named above",
          state.non_finite_in_row, state.step + 1, options_.max_non_finite_steps),
      base::SeenBy::kAllRanks);
}

void Trainer::advance(TrainState& state, const data::Window& window, const WindowCounts& counts) const {
  const data::BatchLayout& layout = options_.plan.layout;
  ++state.step;
  state.cursor = window.end;
  const int64_t micro_steps = layout.micro_steps_per_epoch();
  state.epoch = static_cast<double>(window.end.epoch) +
                static_cast<double>(micro_steps - layout.micro_steps_left(window.end.position)) /
                    static_cast<double>(micro_steps);
  state.num_tokens += counts.num_tokens;
  // transformers' definition: 6 x tokens x parameters that are not embeddings.
  const int64_t non_embedding = parts_.engine.num_parameters() - parts_.engine.num_embedding_parameters();
  state.total_flos += 6.0 * static_cast<double>(counts.num_tokens) * static_cast<double>(non_embedding);
}

void Trainer::log_step(TrainState& state, double loss, const engine::StepMetrics& metrics,
                       double learning_rate, bool epoch_ended) {
  const auto timed = parts_.timers.scope(Phase::kLogging);
  if (metrics.finite) {
    state.loss_sum += loss;
    state.window_loss_sum += loss;
    ++state.window_steps;
    state.window_tokens.add(metrics.micro_batches, options_.trl_compat);
    state.window_aux_loss.sum += metrics.counted_aux_loss.mean() * metrics.aux_loss.count;
    state.window_aux_loss.count += metrics.aux_loss.count;
  }
  const double now = base::monotonic_seconds();
  const double tokens_per_second =
      static_cast<double>(state.num_tokens - log_num_tokens_) / std::max(1e-9, now - log_started_);
  parts_.log.progress(state.step, loss, learning_rate, tokens_per_second);
  if (!log_trigger_.due(state.step, state.epoch, epoch_ended) &&
      !(options_.logging.logging_first_step && state.step == 1))
    return;
  log_window(state, loss, metrics, learning_rate);
}

void Trainer::log_window(TrainState& state, double loss, const engine::StepMetrics& metrics, double learning_rate) {
  const double now = base::monotonic_seconds();
  const double tokens_per_second =
      static_cast<double>(state.num_tokens - log_num_tokens_) / std::max(1e-9, now - log_started_);
  const double mean_loss =
      state.window_steps > 0 ? state.window_loss_sum / static_cast<double>(state.window_steps) : loss;
  metrics::Values values{
      {"loss", mean_loss}, {"grad_norm", metrics.grad_norm}, {"learning_rate", learning_rate}};
  if (options_.logging.log_token_metrics) append(values, state.window_tokens.values());
  if (options_.router_aux_loss_coef > 0) values.emplace_back("aux_loss", state.window_aux_loss.mean());
  append(values,
         {{"num_tokens", static_cast<double>(state.num_tokens)}, {"tokens_per_second", tokens_per_second}});
  const double seconds = now - log_started_;
  constexpr double kTera = 1e12;
  values.emplace_back("tflops", log_flops_ / std::max(1e-9, seconds) / kTera);
  if (const auto peak = options_.logging.peak_tflops_per_rank) {
    values.emplace_back(
        "mfu", metrics::model_flops_utilisation(log_flops_, seconds, *peak * kTera * parts_.comm.size()));
  }
  parts_.log.entry("train", state.step, state.epoch, values);
  parts_.account.log_entry(state.step);
  state.window_loss_sum = 0;
  state.window_steps = 0;
  state.window_tokens = {};
  state.window_aux_loss = {};
  log_started_ = now;
  log_num_tokens_ = state.num_tokens;
  log_flops_ = 0;
}

void Trainer::log_first_forward(const TrainState& state) {
  if (std::exchange(has_begun_, true)) return;
  parts_.log.event("first_forward", state.step,
                   nlohmann::json{{"seconds_since_start", seconds_since_process_start()}}.dump());
}

metrics::Values Trainer::evaluate(const TrainState& state) {
  const auto watched = parts_.watchdog.scope(base::Section::kEvaluation);
  const optim::AtEvaluationPoint at_evaluation_point(parts_.optimizer);
  metrics::Values all;
  for (Evaluator* evaluator : parts_.evaluators) {
    metrics::Values values = evaluator->run();
    append(values, {{"eval_num_tokens", static_cast<double>(state.num_tokens)}});
    parts_.log.entry("eval", state.step, state.epoch, values);
    append(all, values);
  }
  return all;
}

bool Trainer::evaluate_for_best(TrainState& state) {
  const bool is_best = best_rule_.take(evaluate(state), state.step, state.best);
  if (best_rule_.stops(state.best) && parts_.comm.rank() == 0) {
    log::info(
        "stopping early after step {}: {} evaluations in a row were no gain over {} = {} after step {} "
        "(early_stopping_patience = {}, early_stopping_threshold = {})",
        state.step, state.best.evaluations_without_gain, best_rule_.metric(), state.best.metric,
        state.best.step, *options_.best.early_stopping_patience, options_.best.early_stopping_threshold);
  }
  return is_best;
}

std::filesystem::path Trainer::checkpoint_path(int64_t step) const {
  return std::filesystem::path(options_.save.output_dir) / fmt::format("checkpoint-{}", step);
}

void Trainer::save(TrainState& state) {
  if (saver_.has(state.step)) return;
  saver_.finish(state);  // one at a time
  saver_.check_storage();
  const optim::AtEvaluationPoint at_evaluation_point(parts_.optimizer);
  saver_.save(state, contents(Saver::as_saved(state), !options_.save.save_only_model), options_.save.async_save && !finished(state));
  if (parts_.comm.rank() == 0) saver_.has(state.step) ? parts_.requests.saved() : parts_.requests.failed();
  saver_.check_storage();
}

checkpoint::Contents Trainer::contents(const TrainState& state, bool with_optimizer) const {
  checkpoint::Contents result;
  result.step = state.step;
  result.with_optimizer = with_optimizer;
  result.model_part = options_.model_part;
  result.train_state = state.to_json();
  result.environment = options_.identity;
  result.files = options_.side_files;
  result.best_step = state.best.checkpoint_step;
  metrics::TrainerProgress progress{.step = state.step,
                                    .epoch = state.epoch,
                                    .total_flos = state.total_flos,
                                    .num_tokens = state.num_tokens,
                                    .stopped_early = best_rule_.stops(state.best),
                                    .best_step = state.best.step,
                                    .best_metric = state.best.metric,
                                    .evaluations_without_gain = state.best.evaluations_without_gain};
  if (state.best.checkpoint_step >= 0)
    progress.best_model_checkpoint = checkpoint_path(state.best.checkpoint_step).string();
  result.files.push_back({"trainer_state.json", parts_.log.trainer_state(progress)});

  const auto& blocks = parts_.engine.blocks();
  auto& states = parts_.optimizer.states();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const auto tensors = blocks[b].tensors();
    for (std::size_t t = 0; t < tensors.size(); ++t) {
      const auto [offset, numel] = blocks[b].placement(t);
      result.model.push_back(
          {tensors[t].name, tensors[t].shape, 0, numel, blocks[b].parameters().narrow(0, offset, numel)});
      if (!with_optimizer) continue;
      for (std::size_t s = 0; s < states[b].names.size(); ++s) {
        result.optimizer.push_back({states[b].names[s] + "." + tensors[t].name, tensors[t].shape, 0, numel,
                                    states[b].tensors[s].narrow(0, offset, numel)});
      }
    }
    if (!with_optimizer) continue;
    for (const optim::TensorState& part : states[b].of_tensors) {
      result.optimizer.push_back(
          {part.name + "." + tensors[part.tensor].name, part.shape, 0, part.data.numel(), part.data});
    }
  }
  return result;
}

int64_t Trainer::rows_up_to(const data::Cursor& cursor) const {
  const int64_t num_rows = options_.plan.layout.num_rows;
  return cursor.epoch * num_rows + std::min(cursor.position, num_rows);
}

ExitCode Trainer::finish(TrainState& state) {
  saver_.finish(state);
  saver_.check_storage();
  parts_.watchdog.enter(base::Section::kFinish);
  const double seconds = base::monotonic_seconds() - started_;
  const double steps = static_cast<double>(state.step - first_step_);
  const double rows = static_cast<double>(rows_up_to(state.cursor) - first_row_);
  const int64_t good_steps = state.step - state.non_finite_total;
  parts_.log.entry(
      "summary", state.step, state.epoch,
      {{"train_runtime", seconds},
       {"train_samples_per_second", rows / seconds},
       {"train_steps_per_second", steps / seconds},
       {"train_tokens_per_second", static_cast<double>(state.num_tokens - first_num_tokens_) / seconds},
       {"total_flos", state.total_flos},
       {"train_loss", state.loss_sum / static_cast<double>(std::max<int64_t>(1, good_steps))}});
  const optim::AtEvaluationPoint at_evaluation_point(parts_.optimizer);
  const bool best_is_lost = options_.best.load_best_model_at_end && !load_best_model(state);
  {
    const auto timed = parts_.timers.scope(Phase::kCheckpoint);
    parts_.checkpoints.save_final_model(contents(state, /*with_optimizer=*/false));
    const int64_t best = state.best.checkpoint_step;
    if (best >= 0 && options_.save.save_total_limit == 1 && !best_is_lost && parts_.checkpoints.has_checkpoint(best))
      parts_.checkpoints.keep_only(best);
  }
  parts_.account.end(state.step);
  parts_.log.flush();
  if (parts_.comm.rank() == 0) {  // asked for too late: not of the next run
    parts_.requests.saved();
    parts_.requests.stopped();
  }
  return ExitCode::kDone;
}

bool Trainer::load_best_model(const TrainState& state) {
  const bool first = parts_.comm.rank() == 0;
  if (state.best.checkpoint_step < 0) {
    if (first)
      log::warning(
          "load_best_model_at_end: no checkpoint was made at a best evaluation; the last weights stay");
    return false;
  }
  if (first && state.best.checkpoint_step != state.best.step) {
    log::warning(
        "load_best_model_at_end: the evaluation after step {} was best, but there is no checkpoint of it; "
        "checkpoint-{}, the best before it, is taken",
        state.best.step, state.best.checkpoint_step);
  }
  if (state.best.checkpoint_step != state.step) {
    std::unique_ptr<checkpoint::Reader> best;
    try {
      best = parts_.checkpoints.open_checkpoint(checkpoint_path(state.best.checkpoint_step));
    } catch (const base::Error& error) {  // what was trained since is not lost with it
      if (error.code() != ExitCode::kInvalidData || error.seen_by() != base::SeenBy::kAllRanks) throw;
      if (first) log::warning("load_best_model_at_end: {}; the last weights stay", error.what());
      return false;
    }
    parts_.engine.load_trainable(best->model());
  }
  parts_.log.event("best_model", state.step,
                   nlohmann::json{{"best_step", state.best.step},
                                  {"metric", best_rule_.metric()},
                                  {"value", state.best.metric},
                                  {"checkpoint_step", state.best.checkpoint_step}}
                       .dump());
  if (first)
    log::info("the final model is checkpoint-{}: best {} = {}", state.best.checkpoint_step,
              best_rule_.metric(), state.best.metric);
  return true;
}

ExitCode Trainer::save_and_leave(TrainState& state, bool final_stop) {
  if (parts_.comm.rank() == 0) log::warning("stop requested: leaving after step {}", state.step);
  saver_.finish(state);
  const bool model_only = options_.save.save_only_model && options_.resumed_step != state.step;
  if (model_only || !saver_.has(state.step)) {  // this one is to be resumed
    const optim::AtEvaluationPoint at_evaluation_point(parts_.optimizer);
    saver_.save_last(state, contents(Saver::as_saved(state), /*with_optimizer=*/true));
  }
  if (parts_.comm.rank() == 0) parts_.requests.saved();
  parts_.watchdog.enter(base::Section::kFinish);
  parts_.log.event("stopped", state.step, "{}");
  parts_.account.end(state.step);
  parts_.log.flush();
  if (!final_stop) return ExitCode::kRequeue;
  if (parts_.comm.rank() == 0) parts_.requests.stopped();
  return ExitCode::kDone;
}

}  // namespace sft::train
