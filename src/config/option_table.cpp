#include "option_table.h"

#include <algorithm>

#include "rules.h"

namespace sft::config {
namespace {

// Name and binding of a row, from one spelling: an option is named as its field.
#define SFT_OPTION(part, field) #field, [](Options & o) -> Slot { return &o.part.field; }

// Far beyond use, and small enough that what is counted in their products stays a whole number.
constexpr int64_t kMaxRows = 10'000'000, kMaxEpochs = 1'000'000'000, kMaxSteps = 1'000'000'000'000;

class Rows {
 public:
  explicit Rows(std::vector<OptionRow>& rows) : rows_(rows) {}
  void group(const std::string& heading) { group_ = heading; }
  void add(const char* name, Slot (*slot)(Options&), const char* help, Rule rule = {}) {
    rows_.push_back({group_, name, slot, help, std::move(rule)});
  }

 private:
  std::vector<OptionRow>& rows_;
  std::string group_;
};

void add_model_and_data(Rows& rows) {
  rows.group("Model");
  rows.add(SFT_OPTION(model, model_name_or_path),
           "Hugging Face model to fine-tune: a folder, or an id that is in the local cache",
           folder_or_name());
  rows.add(SFT_OPTION(prepare, tokenizer_name_or_path), "tokenizer, likewise; None: the model's",
           folder_or_name());

  rows.group("Data");
  rows.add(SFT_OPTION(data, train_dataset), "prepared training set (HDF5), as sft-prepare writes it", path());
  rows.add(SFT_OPTION(data, eval_dataset),
           "prepared evaluation set (HDF5), or several as name=path, name=path", named_paths_rule());
  rows.add(SFT_OPTION(data, max_length),
           "rows are cut to this many tokens, and packed rows filled to it; None: rows stay whole",
           at_least(1));
  rows.add(SFT_OPTION(data, packing),
           "put several documents into each row, up to max_length; they do not attend to one another");
  rows.add(SFT_OPTION(data, packing_strategy),
           "bfd: whole documents, those beyond max_length cut; bfd_split: those cut into several; wrapped: "
           "documents behind one another, without borders",
           one_of({"bfd", "bfd_split", "wrapped"}, {{"bfd-requeue", "bfd_split"}}));
  rows.add(SFT_OPTION(data, packing_scope),
           "documents that are packed among themselves; batch: 1000 after another, as TRL; dataset: all, "
           "which fills rows better",
           one_of({"batch", "dataset"}));
  rows.add(SFT_OPTION(data, shuffle_dataset),
           "permute the rows once before training, as datasets' shuffle(seed)");
  rows.add(SFT_OPTION(data, train_sampling_strategy), "order of the rows within an epoch",
           one_of({"random", "sequential", "group_by_length"}));
  rows.add(SFT_OPTION(data, dataloader_drop_last), "leave out the rows at the end that fill no whole batch");
  rows.add(SFT_OPTION(data, seed), "seed of row order and dropout", seed());
  rows.add(SFT_OPTION(data, data_seed), "seed of the row order alone; None: seed", seed());

  rows.group("Preparing data (sft-prepare)");
  rows.add(SFT_OPTION(prepare, train_file),
           "source of the training set: JSONL, JSON, CSV, Parquet or text, a file or a folder; or a mixture "
           "of them as path:fraction, path:fraction",
           mixture_rule());
  rows.add(SFT_OPTION(prepare, eval_file),
           "source of the evaluation set; or of several as name=path, name=path", named_paths_rule());
  rows.add(SFT_OPTION(prepare, test_split_size),
           "set this share or number of the training rows aside as the evaluation set; None: none",
           split_size());
  // Not made absolute: as it is written it tells whether data was prepared from it.
  rows.add(SFT_OPTION(prepare, dataset_name), "instead of files: a saved datasets folder or a hub id");
  rows.add(SFT_OPTION(prepare, dataset_split), "split of dataset_name to train on");
  rows.add(SFT_OPTION(prepare, eval_split),
           "split of dataset_name to evaluate on; None: nothing, and split test of a saved datasets folder in "
           "eval_file");
  rows.add(SFT_OPTION(prepare, dataset_text_field), "column that holds the text");
  rows.add(SFT_OPTION(prepare, formatting_func),
           "Python function from a row to its text, as file.py:function", python_function());
  rows.add(SFT_OPTION(prepare, completion_only_loss),
           "learn only the completion of prompt/completion rows; None: when the first row is one");
  rows.add(SFT_OPTION(prepare, assistant_only_loss), "learn only what the assistant says in chat rows");
  rows.add(SFT_OPTION(prepare, chat_template_path),
           "chat template: a .jinja file, or the tokenizer it is taken from; None: the tokenizer's own",
           folder_or_name());
  rows.add(SFT_OPTION(prepare, eos_token), "token that ends rows; None: the tokenizer's");
  rows.add(SFT_OPTION(prepare, pad_token), "pad token of the saved tokenizer; None: as it is");
  rows.add(SFT_OPTION(prepare, max_rows),
           "rows to take of each data set, of a mixture in its shares; None: all", at_least(1));
  rows.add(SFT_OPTION(prepare, dataset_num_proc), "processes; None: one for each core", at_least(1));
}

void add_training(Rows& rows) {
  rows.group("Batch");
  rows.add(SFT_OPTION(batch, per_device_train_batch_size), "rows of a micro-batch on each rank", between(1, kMaxRows));
  rows.add(SFT_OPTION(batch, per_device_eval_batch_size), "the same in evaluation", between(1, kMaxRows));
  rows.add(SFT_OPTION(batch, gradient_accumulation_steps), "micro-batches of a step on each rank",
           between(1, kMaxRows));
  rows.add(SFT_OPTION(batch, global_batch_size),
           "rows of a step over all ranks; when set, gradient_accumulation_steps is derived from it",
           between(1, kMaxRows));
  rows.add(
      SFT_OPTION(batch, micro_batch_tokens),
      "deal the rows of a step to the ranks by tokens, and so those of an evaluation, in micro-batches of at most this many "
      "(a longer row is one by itself) instead of per_device_train_batch_size rows; None: by rows",
      at_least(1));
  rows.add(SFT_OPTION(batch, allow_batch_change), "let a resumed run use another global batch size");

  rows.group("Loss");
  rows.add(SFT_OPTION(loss, loss_type),
           "nll: cross-entropy; dft: cross-entropy weighted by the target's probability",
           one_of({"nll", "dft"}, {{"chunked_nll", "nll"}}));
  rows.add(SFT_OPTION(loss, label_smoothing_factor),
           "this share of a target's weight is spread evenly over all words", in_half_open_unit());
  rows.add(SFT_OPTION(loss, average_tokens_across_devices),
           "true: every target of a step weighs the same; false: every rank does, whatever its targets");
  rows.add(
      SFT_OPTION(loss, neftune_noise_alpha),
      "NEFTune: uniform noise up to alpha / sqrt(tokens of the row x width) on the embedding in training",
      at_least(0));
  rows.add(SFT_OPTION(loss, router_aux_loss_coef),
           "mixtures of experts: weight of the loss that balances the experts' load; None: the model's; 0: off",
           at_least(0));

  rows.group("Optimizer");
  rows.add(SFT_OPTION(optimizer, optim), "optimizer; both adamw names are the same here",
           one_of({"adamw_torch", "adamw_torch_fused", "sgd", "lion_32bit", "adafactor",
                   "schedule_free_adamw", "adamw_8bit"},
                  {{"lion", "lion_32bit"},
                   {"adamw_bnb_8bit", "adamw_8bit"},
                   // "paged" says where bitsandbytes keeps the state, not what it computes.
                   {"paged_adamw_8bit", "adamw_8bit"},
                   {"paged_adamw_32bit", "adamw_torch"},
                   {"paged_adamw", "adamw_torch"},
                   {"paged_lion_32bit", "lion_32bit"},
                   {"paged_lion", "lion_32bit"}}));
  rows.add(
      SFT_OPTION(optimizer, optim_args),
      "its further arguments; sgd: momentum, dampening, nesterov; schedule_free_adamw: r, weight_lr_power",
      key_values());
  rows.add(SFT_OPTION(optimizer, learning_rate), "peak learning rate", at_least(0));
  rows.add(SFT_OPTION(optimizer, weight_decay),
           "decoupled weight decay of tensors with two dimensions or more", at_least(0));
  rows.add(SFT_OPTION(optimizer, adam_beta1),
           "decay of AdamW's first moment; Lion's weight of the momentum in a step", in_half_open_unit());
  rows.add(SFT_OPTION(optimizer, adam_beta2), "decay of AdamW's second moment, of Lion's momentum",
           in_half_open_unit());
  rows.add(SFT_OPTION(optimizer, adam_epsilon), "AdamW's epsilon", at_least(0));
  rows.add(SFT_OPTION(optimizer, max_grad_norm), "clip gradients to this global L2 norm; 0: never",
           at_least(0));
  rows.add(SFT_OPTION(optimizer, max_non_finite_steps),
           "steps with a non-finite gradient in a row before the run ends with code 87", at_least(1));
  rows.add(SFT_OPTION(optimizer, skip_spike_zscore),
           "skip an update whose gradient norm is more than this many standard deviations above the mean of "
           "the last 100 that were made (docs/running.md); None: never",
           above(0));

  rows.group("Length and learning rate schedule");
  rows.add(SFT_OPTION(schedule, max_steps), "optimizer steps; -1: num_train_epochs decides", between(-1, kMaxSteps));
  rows.add(SFT_OPTION(schedule, num_train_epochs), "epochs, fractions too", between(0, kMaxEpochs));
  rows.add(
      SFT_OPTION(schedule, lr_scheduler_type), "how the learning rate changes",
      one_of({"linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
              "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"}));
  rows.add(SFT_OPTION(schedule, lr_scheduler_kwargs), "its arguments", key_values());
  rows.add(SFT_OPTION(schedule, warmup_steps), "steps of linear warm-up from 0", steps());

  rows.group("Precision and memory");
  rows.add(SFT_OPTION(precision, bf16), "matrix products in bf16 over fp32 weights, as autocast does it");
  rows.add(SFT_OPTION(precision, gradient_checkpointing),
           "keep only the input of each layer, compute the rest again in the backward pass");
}

void add_around_training(Rows& rows) {
  rows.group("Adapters (LoRA)");
  rows.add(SFT_OPTION(adapter, use_peft),
           "train low-rank adapters and leave the model's weights as they are");
  rows.add(SFT_OPTION(adapter, lora_r), "rank of the adapters", at_least(1));
  rows.add(SFT_OPTION(adapter, lora_alpha), "scale of the adapters: lora_alpha / lora_r", above(0));
  rows.add(SFT_OPTION(adapter, lora_dropout), "dropout on the input of the adapters", in_half_open_unit());
  rows.add(
      SFT_OPTION(adapter, lora_target_modules),
      "linears that get an adapter, by the ends of their names, separated by commas, or all-linear; None: "
      "PEFT's choice for the model type",
      names());
  rows.add(SFT_OPTION(adapter, lora_modules_to_save),
           "modules that are trained as a whole and saved with the adapter, e.g. lm_head", names());
  rows.add(SFT_OPTION(adapter, use_rslora), "scale the adapters by lora_alpha / sqrt(lora_r)");
  rows.add(SFT_OPTION(adapter, use_dora),
           "DoRA: train the size of each output's weight apart from its direction");
  rows.add(SFT_OPTION(adapter, init_lora_weights),
           "first values; true: A uniform, B zero; gaussian: A normal, B zero; false: both uniform",
           one_of({"true", "false", "gaussian"}));
  rows.add(
      SFT_OPTION(adapter, adapter_name_or_path),
      "folder of a PEFT adapter to go on from, instead of new ones; its r, alpha, dropout and modules hold",
      path());
  rows.add(SFT_OPTION(adapter, base_dtype), "what the weights that are not trained are held in",
           one_of({"float32", "bfloat16"}));
  rows.add(SFT_OPTION(adapter, load_in_4bit),
           "QLoRA: hold the linears that are not trained in 4 bits (NF4), as bitsandbytes quantises them");
  rows.add(SFT_OPTION(adapter, use_bnb_nested_quant), "quantise the scales of the 4-bit weights too");

  rows.group("Logging");
  rows.add(SFT_OPTION(logging, logging_strategy), "when to log", one_of({"no", "steps", "epoch"}));
  rows.add(SFT_OPTION(logging, logging_steps), "steps from log entry to log entry", steps());
  rows.add(SFT_OPTION(logging, logging_first_step), "log the first step too");
  rows.add(SFT_OPTION(logging, log_token_metrics),
           "log entropy and mean_token_accuracy, in training and evaluation");
  rows.add(SFT_OPTION(logging, peak_tflops_per_rank),
           "log mfu, the share of this many TFLOP/s per rank that tflops comes to", above(0));
  rows.add(SFT_OPTION(logging, report_to), "write TensorBoard event files to output_dir/runs",
           list_of({"none", "tensorboard", "all"}));
  rows.add(SFT_OPTION(logging, run_name), "name of the run in TensorBoard");
  rows.add(SFT_OPTION(logging, disable_tqdm), "no progress bar; None: a bar on terminals only");
  // Hugging Face's further levels have their nearest here.
  rows.add(SFT_OPTION(logging, log_level), "least level of the messages on the console",
           one_of({"debug", "info", "warning", "error"},
                  {{"passive", "info"}, {"detail", "debug"}, {"warn", "warning"}, {"critical", "error"}}));

  rows.group("Evaluation");
  rows.add(SFT_OPTION(eval, eval_strategy), "when to evaluate", one_of({"no", "steps", "epoch"}));
  rows.add(SFT_OPTION(eval, eval_steps), "steps from evaluation to evaluation; None: logging_steps", steps());
  rows.add(SFT_OPTION(eval, eval_on_start), "evaluate before the first step");
  rows.add(SFT_OPTION(eval, eval_packing), "pack the evaluation set; None: as packing says");

  rows.add(SFT_OPTION(eval, eval_delay),
           "no evaluation before this step, or this epoch where eval_strategy = epoch", at_least(0));

  rows.group("Best model and early stopping");
  rows.add(SFT_OPTION(best, load_best_model_at_end),
           "end with the checkpoint whose evaluation was best, instead of the last weights");
  rows.add(
      SFT_OPTION(best, metric_for_best_model),
      "the evaluation's value that tells, with or without eval_; None: loss where the best model is loaded");
  rows.add(SFT_OPTION(best, greater_is_better), "None: true unless the metric's name ends in loss or perplexity");
  rows.add(SFT_OPTION(best, early_stopping_patience),
           "end the run after this many evaluations in a row without gain; None: never", at_least(1));
  rows.add(SFT_OPTION(best, early_stopping_threshold),
           "what is a gain: better than the best by more than this", at_least(0));

  rows.group("Saving and resuming");
  rows.add(SFT_OPTION(save, output_dir), "folder of checkpoints, logs and the final model", path());
  rows.add(SFT_OPTION(save, overwrite_output_dir), "allow a new run to replace the results in output_dir");
  rows.add(SFT_OPTION(save, save_strategy),
           "when to save a checkpoint; best: after each evaluation that is the best so far",
           one_of({"no", "steps", "epoch", "best"}));
  rows.add(SFT_OPTION(save, save_steps), "steps from checkpoint to checkpoint", steps());
  rows.add(SFT_OPTION(save, save_on_interval_minutes),
           "also save once this long has passed since the last save; None: by steps only", above(0));
  rows.add(SFT_OPTION(save, save_total_limit),
           "checkpoints to keep, the newest and the best always among them; None: all", at_least(1));
  rows.add(SFT_OPTION(save, save_only_model), "leave out what resuming needs, but where the run is asked to stop");
  rows.add(SFT_OPTION(save, max_shard_size), "largest safetensors file of a checkpoint", size());
  rows.add(SFT_OPTION(save, async_save),
           "copy what a checkpoint holds and write it while training goes on; costs memory for the copy");
  rows.add(SFT_OPTION(save, storage_failures_max),
           "checkpoints in a row that could not be written before the run ends with code 91", at_least(1));
  rows.add(SFT_OPTION(save, resume_from_checkpoint),
           "true: go on from the newest checkpoint that verifies, if there is one; a folder: from that one",
           resume());

  rows.group("Machine");
  rows.add(SFT_OPTION(runtime, threads_per_rank), "CPU threads of a rank; 0: its share of the cores",
           at_least(0));
  rows.add(SFT_OPTION(runtime, device), "auto: a GPU where there is one", one_of({"auto", "cpu", "cuda"}));
  rows.add(SFT_OPTION(runtime, comm_backend), "auto: nccl between GPUs, mpi between CPUs",
           one_of({"auto", "mpi", "nccl"}));
  rows.add(SFT_OPTION(runtime, max_run_minutes),
           "after this long save, and end with exit code 85 (run again to go on); None: no limit", above(0));
  rows.add(
      SFT_OPTION(runtime, mean_minutes_between_failures),
      "how long the machine runs between failures, all hosts together: the first save is followed by advice "
      "on how often to save; None: no advice",
      above(0));
  rows.add(SFT_OPTION(runtime, check_replicas_steps),
           "steps from one comparison of the ranks' weights to the next (exit code 88 when they differ); 0: never",
           at_least(0));
  rows.add(SFT_OPTION(runtime, watchdog), "end a run that no longer comes on, with exit code 86 and a report");
  rows.add(SFT_OPTION(runtime, watchdog_start_seconds),
           "longest start, to the end of the first step; on the command line it also holds before files are read",
           above(0));
  rows.add(SFT_OPTION(runtime, watchdog_step_seconds),
           "longest later step, or five times what 99 of 100 steps took if that is longer", above(0));
  rows.add(SFT_OPTION(runtime, watchdog_evaluation_seconds), "longest evaluation", above(0));
  rows.add(SFT_OPTION(runtime, watchdog_checkpoint_seconds), "longest save", above(0));
  rows.add(SFT_OPTION(runtime, watchdog_finish_seconds), "longest end, in which the final model is written", above(0));
  rows.add(SFT_OPTION(runtime, trl_compat), "reproduce TRL's numbers with their flaws (docs/numerics.md)");
}

#undef SFT_OPTION

}  // namespace

const std::vector<OptionRow>& option_table() {
  static const std::vector<OptionRow> table = [] {
    std::vector<OptionRow> result;
    Rows rows(result);
    add_model_and_data(rows);
    add_training(rows);
    add_around_training(rows);
    return result;
  }();
  return table;
}

const OptionRow* find_option(const std::string& name) {
  const auto& table = option_table();
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const OptionRow& row) { return row.name == name; });
  return found == table.end() ? nullptr : &*found;
}

}  // namespace sft::config
