// All options of a run as plain structs. Names are those of TRL's SFTConfig / transformers' TrainingArguments.
//
// A field's option name is the field's name; types, defaults, help, aliases and checks are in the one option table
// (src/config/option_table.cpp), from which parser, --help, docs/options.md and dumps are made.
// Rooms take the narrow struct they need, never `Options` as a whole.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace sft::config {

struct ModelOptions {
  std::string model_name_or_path;  // folder, or a repository id in the local Hugging Face cache
};

struct AdapterOptions {
  bool use_peft = false;
  int64_t lora_r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.05;
  std::string lora_target_modules;                   // names separated by commas, or all-linear; empty: PEFT's for the model type
  std::string lora_modules_to_save;                  // names separated by commas
  bool use_rslora = false, use_dora = false;
  std::string init_lora_weights = "true";            // true | false | gaussian
  std::string adapter_name_or_path;                  // folder of a PEFT adapter to go on from; its r, alpha, dropout and modules hold
  std::string base_dtype = "float32";                // float32 | bfloat16: what frozen weights are held in
  bool load_in_4bit = false;                         // frozen linears in NF4
  bool use_bnb_nested_quant = false;
};

// sft-prepare reads these; sft-dist checks that the prepared files match them.
struct PrepareOptions {
  std::string train_file, eval_file;                 // sources; mixture_paths(), named_paths()
  std::optional<double> test_split_size;             // rows, or a share below 1, of the training rows
  std::string dataset_name, dataset_split = "train", eval_split;
  std::string tokenizer_name_or_path;                // empty: the model's
  std::string dataset_text_field = "text";
  std::string formatting_func;                       // file.py:function
  std::optional<bool> completion_only_loss;          // unset: where the first row has prompt and completion
  bool assistant_only_loss = false;
  std::string chat_template_path;                    // .jinja file or a tokenizer; empty: the tokenizer's
  std::string eos_token, pad_token;                  // empty: the tokenizer's
  std::optional<int64_t> max_rows;
  std::optional<int64_t> dataset_num_proc;
};

struct DataOptions {
  std::string train_dataset, eval_dataset;           // prepared HDF5 files; named_paths()
  std::optional<int64_t> max_length = 1024;          // unset: rows whole
  bool packing = false;
  std::string packing_strategy = "bfd";            // bfd | bfd_split | wrapped
  std::string packing_scope = "batch";             // batch: 1000 rows, as TRL | dataset
  bool shuffle_dataset = false;
  std::string train_sampling_strategy = "random";    // random | sequential | group_by_length
  bool dataloader_drop_last = false;
  int64_t seed = 42;
  std::optional<int64_t> data_seed;                  // unset: seed
};

struct BatchOptions {
  int64_t per_device_train_batch_size = 8;
  int64_t per_device_eval_batch_size = 8;
  int64_t gradient_accumulation_steps = 1;
  std::optional<int64_t> global_batch_size;          // fixes B * W * GAS; GAS is derived
  std::optional<int64_t> micro_batch_tokens;         // a step's rows are dealt by tokens; unset: by rows
  bool allow_batch_change = false;
};

struct LossOptions {
  std::string loss_type = "nll";                     // nll | dft
  double label_smoothing_factor = 0.0;
  bool average_tokens_across_devices = true;         // false: each rank's mean by itself, then their mean
  std::optional<double> neftune_noise_alpha;         // unset: no noise
  std::optional<double> router_aux_loss_coef;        // unset: the model's; 0: off
};

struct OptimizerOptions {
  std::string optim = "adamw_torch_fused";           // adamw_torch | adamw_torch_fused | sgd | lion_32bit | adafactor | schedule_free_adamw | adamw_8bit
  std::string optim_args;                            // JSON object or key=value,...; empty: none
  double learning_rate = 2e-5;
  double weight_decay = 0.0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;                        // 0: no clipping
  int64_t max_non_finite_steps = 10;                 // in a row, then exit 87
  std::optional<double> skip_spike_zscore;           // unset: no update is skipped for its size
};

struct ScheduleOptions {
  int64_t max_steps = -1;                            // > 0 overrides num_train_epochs
  double num_train_epochs = 3.0;
  std::string lr_scheduler_type = "linear";
  std::string lr_scheduler_kwargs;                   // JSON object or key=value,...; empty: none
  double warmup_steps = 0;                           // < 1: fraction of all steps (alias warmup_ratio)
};

struct PrecisionOptions {
  bool bf16 = false;
  bool gradient_checkpointing = false;
};

// A *_steps value: >= 1 steps, in (0, 1) a fraction of all steps, rounded up.
struct LoggingOptions {
  std::string logging_strategy = "steps";            // no | steps | epoch
  double logging_steps = 10;
  bool logging_first_step = false;
  std::string report_to = "none";                    // none | tensorboard | all, comma separated
  std::string run_name;
  std::optional<bool> disable_tqdm;                  // unset: bar on a terminal only
  std::string log_level = "info";                    // debug | info | warning | error
  bool log_token_metrics = true;                     // entropy and mean_token_accuracy
  std::optional<double> peak_tflops_per_rank;        // what mfu is a share of; unset: mfu is not logged
};

struct EvalOptions {
  std::string eval_strategy = "no";                  // no | steps | epoch
  std::optional<double> eval_steps;                  // unset: logging_steps
  bool eval_on_start = false;
  std::optional<bool> eval_packing;                  // unset: packing
  double eval_delay = 0;                             // no evaluation before this step (by steps) or epoch
};

struct BestOptions {
  bool load_best_model_at_end = false;
  std::string metric_for_best_model = {};            // empty: loss with load_best_model_at_end, else none
  std::optional<bool> greater_is_better = {};        // unset: unless the metric's name ends in "loss"
  std::optional<int64_t> early_stopping_patience = {};  // evaluations without gain
  double early_stopping_threshold = 0;
};

struct SaveOptions {
  std::string output_dir = "sft_output";
  bool overwrite_output_dir = false;
  std::string save_strategy = "steps";               // no | steps | epoch | best
  double save_steps = 500;
  std::optional<double> save_on_interval_minutes;    // also save when the last save is this long ago
  std::optional<int64_t> save_total_limit;
  bool save_only_model = false;
  std::string max_shard_size = "5GB";                // 1000-based units, as huggingface_hub
  bool async_save = false;                           // write checkpoints in the background
  int64_t storage_failures_max = 3;                  // checkpoints in a row that could not be written, then exit 91
  std::string resume_from_checkpoint;                // "": no, "true": newest that verifies, else a folder
};

struct RuntimeOptions {
  int64_t threads_per_rank = 0;                      // 0: this rank's share of the cores it may use
  std::string device = "auto";                       // auto | cpu | cuda
  std::string comm_backend = "auto";                 // auto | mpi | nccl
  bool trl_compat = false;
  std::optional<double> max_run_minutes;             // then save, exit 85
  std::optional<double> mean_minutes_between_failures;  // of the machine, for advice on saving; unset: none
  int64_t check_replicas_steps = 100;                // 0: never
  bool watchdog = true;
  double watchdog_start_seconds = 600, watchdog_step_seconds = 30;
  double watchdog_evaluation_seconds = 3600, watchdog_checkpoint_seconds = 1800;
  double watchdog_finish_seconds = 1800;
};

struct Options {
  ModelOptions model;
  AdapterOptions adapter;
  PrepareOptions prepare;
  DataOptions data;
  BatchOptions batch;
  LossOptions loss;
  OptimizerOptions optimizer;
  ScheduleOptions schedule;
  PrecisionOptions precision;
  LoggingOptions logging;
  EvalOptions eval;
  BestOptions best;
  SaveOptions save;
  RuntimeOptions runtime;
};

}  // namespace sft::config
