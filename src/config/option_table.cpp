#include "option_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "value.h"

namespace sft::config {
namespace {

using Problem = std::optional<std::string>;

template <typename T>
nlohmann::json as_json(const T& value) {
  return value;
}
template <typename T>
nlohmann::json as_json(const std::optional<T>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}
template <>
nlohmann::json as_json(const std::string& value) {
  return value.empty() ? nlohmann::json() : nlohmann::json(value);
}

// Checks on numbers. Each says what is allowed.
template <typename T>
using Check = Problem (*)(const T& value);

template <typename T, int64_t Minimum>
Problem at_least(const T& value) {
  if (static_cast<double>(value) >= static_cast<double>(Minimum)) return std::nullopt;
  return fmt::format("must be {} or more", Minimum);
}
Problem below_one(const double& value) {
  if (value >= 0 && value < 1) return std::nullopt;
  return "must be in [0, 1)";
}
// A number of steps (whole) or a fraction of all steps.
Problem steps_or_fraction(const double& value) {
  const bool whole = value >= 1 && static_cast<double>(static_cast<int64_t>(value)) == value;
  if (value >= 0 && (value < 1 || whole)) return std::nullopt;
  return "must be a whole number of steps, or a fraction of all steps below 1";
}
Problem epochs(const double& value) {
  if (value > 0) return std::nullopt;
  return "must be more than 0";
}

class TableBuilder {
 public:
  std::vector<OptionRow> rows;

  void group(const std::string& name) { group_ = name; }

  // `field(options)` is the struct member the option is bound to.
  template <typename Field>
  OptionRow& add(const std::string& name, Field field, const std::string& help) {
    return add_checked(name, field, help, [](const auto&) -> Problem { return std::nullopt; });
  }

  template <typename Field, typename CheckFunction>
  OptionRow& add_checked(const std::string& name, Field field, const std::string& help, CheckFunction check) {
    using T = std::remove_cvref_t<decltype(field(std::declval<Options&>()))>;
    OptionRow row;
    row.group = group_;
    row.name = name;
    row.type = type_name(static_cast<const T*>(nullptr));
    Options defaults;
    row.default_text = format_value(field(defaults));
    row.help = help;
    row.set = [field, check](Options& options, const std::string& text) -> Problem {
      T value = field(options);
      if (auto problem = parse_value(text, value)) return problem;
      if (auto problem = check_value(value, check)) return problem;
      field(options) = value;
      return std::nullopt;
    };
    row.get = [field](const Options& options) { return format_value(field(const_cast<Options&>(options))); };
    row.get_json = [field](const Options& options) {
      return as_json(field(const_cast<Options&>(options))).dump();
    };
    rows.push_back(std::move(row));
    return rows.back();
  }

  // One of a few words.
  template <typename Field>
  OptionRow& add_choice(const std::string& name, Field field, std::vector<std::string> allowed,
                        const std::string& help) {
    OptionRow& row = add(name, field, help);
    row.allowed = allowed;
    row.set = [field, allowed, name](Options& options, const std::string& text) -> Problem {
      // "None" is a word of transformers' for report_to, and the absence of a strategy.
      const bool none = is_none(text);
      const std::string value = !none                                                                ? text
                                : std::find(allowed.begin(), allowed.end(), "none") != allowed.end() ? "none"
                                                                                                     : "no";
      if (std::find(allowed.begin(), allowed.end(), value) == allowed.end()) {
        return fmt::format("must be one of {}", fmt::join(allowed, ", "));
      }
      field(options) = value;
      return std::nullopt;
    };
    return row;
  }

 private:
  template <typename T, typename CheckFunction>
  static Problem check_value(const T& value, CheckFunction check) {
    return check(value);
  }
  template <typename T, typename CheckFunction>
  static Problem check_value(const std::optional<T>& value, CheckFunction check) {
    return value ? check(*value) : std::nullopt;
  }
  std::string group_;
};

// Binds an option to member `member` of the struct `part` of Options.
#define SFT_FIELD(part, member) \
  [](Options & o) -> auto& {    \
    return o.part.member;       \
  }

void add_model_and_data(TableBuilder& table) {
  table.group("Model");
  table
      .add("model_name_or_path", SFT_FIELD(model, model_name_or_path),
           "folder of a Hugging Face model, or its id in the local cache")
      .is_path = true;
  table
      .add("tokenizer_name_or_path", SFT_FIELD(prepare, tokenizer_name_or_path),
           "folder or id of the tokenizer; None: the model's")
      .is_path = true;

  table.group("Data");
  table
      .add("train_dataset", SFT_FIELD(data, train_dataset),
           "prepared training set (HDF5), written by sft-prepare")
      .is_path = true;
  table.add("eval_dataset", SFT_FIELD(data, eval_dataset), "prepared evaluation set (HDF5)").is_path = true;
  table.add_checked("max_length", SFT_FIELD(data, max_length),
                    "rows are cut to this many tokens; None: not cut", at_least<int64_t, 1>);
  table.add("shuffle_dataset", SFT_FIELD(data, shuffle_dataset),
            "permute the rows once before training, as datasets' shuffle(seed)");
  table.add_choice("train_sampling_strategy", SFT_FIELD(data, train_sampling_strategy),
                   {"random", "sequential"}, "order of rows in an epoch");
  table.add("dataloader_drop_last", SFT_FIELD(data, dataloader_drop_last),
            "leave out the rows that do not fill a micro-batch on every rank");
  table.add_checked("seed", SFT_FIELD(data, seed), "of row order and dropout", at_least<int64_t, 0>);
  table.add_checked("data_seed", SFT_FIELD(data, data_seed), "of row order; None: seed",
                    at_least<int64_t, 0>);

  table.group("Preparing data (sft-prepare)");
  table
      .add("train_file", SFT_FIELD(prepare, train_file),
           "source of the training set: JSONL, JSON, CSV, Parquet, text files or a folder")
      .is_path = true;
  table.add("eval_file", SFT_FIELD(prepare, eval_file), "source of the evaluation set").is_path = true;
  table
      .add("dataset_name", SFT_FIELD(prepare, dataset_name),
           "saved datasets folder or hub id, instead of files")
      .is_path = true;
  table.add("dataset_split", SFT_FIELD(prepare, dataset_split), "split of dataset_name to train on");
  table.add("eval_split", SFT_FIELD(prepare, eval_split), "split of dataset_name to evaluate on");
  table.add("dataset_text_field", SFT_FIELD(prepare, dataset_text_field), "column that holds the text");
  table.add("formatting_func", SFT_FIELD(prepare, formatting_func),
            "file.py:function that turns a row into text");
  table.add_checked("max_rows", SFT_FIELD(prepare, max_rows), "use the first rows only",
                    at_least<int64_t, 1>);
  table.add_checked("dataset_num_proc", SFT_FIELD(prepare, dataset_num_proc),
                    "processes that tokenise; None: all cores", at_least<int64_t, 1>);
}

void add_training(TableBuilder& table) {
  table.group("Batch");
  table.add_checked("per_device_train_batch_size", SFT_FIELD(batch, per_device_train_batch_size),
                    "rows of a micro-batch on one rank", at_least<int64_t, 1>);
  table.add_checked("per_device_eval_batch_size", SFT_FIELD(batch, per_device_eval_batch_size),
                    "rows evaluated at once on one rank", at_least<int64_t, 1>);
  table.add_checked("gradient_accumulation_steps", SFT_FIELD(batch, gradient_accumulation_steps),
                    "micro-batches of one step", at_least<int64_t, 1>);
  table.add_checked(
      "global_batch_size", SFT_FIELD(batch, global_batch_size),
      "rows of one step over all ranks; fixes gradient_accumulation_steps whatever the number of ranks",
      at_least<int64_t, 1>);
  table.add("allow_batch_change", SFT_FIELD(batch, allow_batch_change),
            "resume although the global batch is another");

  table.group("Optimizer");
  table.add_choice("optim", SFT_FIELD(optimizer, optim), {"adamw_torch", "adamw_torch_fused", "sgd"},
                   "optimizer");
  table.add_checked("learning_rate", SFT_FIELD(optimizer, learning_rate), "peak learning rate",
                    at_least<double, 0>);
  table.add_checked("weight_decay", SFT_FIELD(optimizer, weight_decay),
                    "decoupled; on tensors of two dimensions", at_least<double, 0>);
  table.add_checked("adam_beta1", SFT_FIELD(optimizer, adam_beta1), "decay of the first moment", below_one);
  table.add_checked("adam_beta2", SFT_FIELD(optimizer, adam_beta2), "decay of the second moment", below_one);
  table.add_checked("adam_epsilon", SFT_FIELD(optimizer, adam_epsilon), "added to the denominator",
                    at_least<double, 0>);
  table.add_checked("max_grad_norm", SFT_FIELD(optimizer, max_grad_norm),
                    "clip the gradient's L2 norm; 0: do not clip", at_least<double, 0>);
  table.add_checked("max_non_finite_steps", SFT_FIELD(optimizer, max_non_finite_steps),
                    "end with code 87 after this many steps in a row whose loss or gradient is not finite",
                    at_least<int64_t, 1>);

  table.group("Schedule");
  table.add("max_steps", SFT_FIELD(schedule, max_steps),
            "steps of the run; more than 0 overrides num_train_epochs");
  table.add_checked("num_train_epochs", SFT_FIELD(schedule, num_train_epochs),
                    "passes over the data; may be a fraction", epochs);
  table.add_choice(
      "lr_scheduler_type", SFT_FIELD(schedule, lr_scheduler_type),
      {"linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
       "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay"},
      "how the learning rate changes");
  table.add("lr_scheduler_kwargs", SFT_FIELD(schedule, lr_scheduler_kwargs),
            "its arguments, as a JSON object or key=value, ...");
  table.add_checked("warmup_steps", SFT_FIELD(schedule, warmup_steps),
                    "steps from 0 to the peak; below 1 a fraction of all steps", steps_or_fraction);

  table.group("Precision and memory");
  table.add("bf16", SFT_FIELD(precision, bf16),
            "matrix products in bf16 over fp32 weights, as autocast does");
  table.add("gradient_checkpointing", SFT_FIELD(precision, gradient_checkpointing),
            "keep only each layer's input and compute the rest again");
}

void add_around_training(TableBuilder& table) {
  table.group("Logging");
  table.add_choice("logging_strategy", SFT_FIELD(logging, logging_strategy), {"no", "steps", "epoch"},
                   "when to log");
  table.add_checked("logging_steps", SFT_FIELD(logging, logging_steps),
                    "steps between log entries; below 1 a fraction of all steps", steps_or_fraction);
  table.add("logging_first_step", SFT_FIELD(logging, logging_first_step), "log the first step too");
  table.add_choice("report_to", SFT_FIELD(logging, report_to), {"none", "tensorboard", "all"},
                   "also write TensorBoard event files");
  table.add("run_name", SFT_FIELD(logging, run_name), "name of the run in TensorBoard");
  table.add("disable_tqdm", SFT_FIELD(logging, disable_tqdm),
            "no progress bar; None: a bar on a terminal only");
  table.add_choice("log_level", SFT_FIELD(logging, log_level), {"debug", "info", "warning", "error"},
                   "of messages on the console");

  table.group("Evaluation");
  table.add_choice("eval_strategy", SFT_FIELD(eval, eval_strategy), {"no", "steps", "epoch"},
                   "when to evaluate");
  table.add_checked("eval_steps", SFT_FIELD(eval, eval_steps),
                    "steps between evaluations; None: logging_steps", steps_or_fraction);
  table.add("eval_on_start", SFT_FIELD(eval, eval_on_start), "evaluate before the first step");

  table.group("Saving and resuming");
  table.add("output_dir", SFT_FIELD(save, output_dir), "where checkpoints, logs and the final model go")
      .is_path = true;
  table.add("overwrite_output_dir", SFT_FIELD(save, overwrite_output_dir),
            "replace the results that output_dir holds");
  table.add_choice("save_strategy", SFT_FIELD(save, save_strategy), {"no", "steps", "epoch"}, "when to save");
  table.add_checked("save_steps", SFT_FIELD(save, save_steps),
                    "steps between checkpoints; below 1 a fraction of all steps", steps_or_fraction);
  table.add_checked("save_total_limit", SFT_FIELD(save, save_total_limit), "checkpoints to keep; None: all",
                    at_least<int64_t, 1>);
  table.add("save_only_model", SFT_FIELD(save, save_only_model),
            "checkpoints without optimizer state (cannot be resumed)");
  table.add("max_shard_size", SFT_FIELD(save, max_shard_size), "largest safetensors file, e.g. 5GB");
  OptionRow& resume =
      table.add("resume_from_checkpoint", SFT_FIELD(save, resume_from_checkpoint),
                "true: the newest checkpoint that verifies, if any; a folder: that one; false: start afresh");
  resume.set = [](Options& options, const std::string& text) -> Problem {
    bool flag = false;
    options.save.resume_from_checkpoint =
        parse_value(text, flag) ? (is_none(text) ? "" : text) : (flag ? "true" : "");
    return std::nullopt;
  };
  resume.is_path = true;

  table.group("Machine");
  table.add_checked("threads_per_rank", SFT_FIELD(runtime, threads_per_rank),
                    "CPU threads; 0: this rank's share of the cores", at_least<int64_t, 0>);
  table.add_choice("device", SFT_FIELD(runtime, device), {"auto", "cpu", "cuda"},
                   "auto: a GPU when one is visible");
  table.add_choice("comm_backend", SFT_FIELD(runtime, comm_backend), {"auto", "mpi", "nccl"},
                   "auto: nccl on GPUs, mpi on CPUs");
  table.add("trl_compat", SFT_FIELD(runtime, trl_compat),
            "reproduce TRL's numbers, its flaws included (docs/numerics.md)");
}

#undef SFT_FIELD

std::optional<std::string> cpu_if_true(const std::string& text) {
  bool flag = false;
  if (parse_value(text, flag)) return std::nullopt;
  return flag ? "cpu" : "auto";
}

}  // namespace

const std::vector<OptionRow>& option_table() {
  static const std::vector<OptionRow> table = [] {
    TableBuilder builder;
    add_model_and_data(builder);
    add_training(builder);
    add_around_training(builder);
    return std::move(builder.rows);
  }();
  return table;
}

const OptionRow* find_option(const std::string& name) {
  const auto& table = option_table();
  const auto found =
      std::find_if(table.begin(), table.end(), [&](const OptionRow& row) { return row.name == name; });
  return found == table.end() ? nullptr : &*found;
}

const std::vector<Alias>& aliases() {
  static const std::vector<Alias> list{{"evaluation_strategy", "eval_strategy"},
                                       {"max_seq_length", "max_length"},
                                       {"warmup_ratio", "warmup_steps"},
                                       {"tokenizer", "tokenizer_name_or_path"},
                                       {"tokenizer_name", "tokenizer_name_or_path"},
                                       {"model", "model_name_or_path"},
                                       {"model_name", "model_name_or_path"},
                                       {"activation_checkpointing", "gradient_checkpointing"},
                                       {"per_gpu_train_batch_size", "per_device_train_batch_size"},
                                       {"per_gpu_eval_batch_size", "per_device_eval_batch_size"},
                                       {"dataset_train_split", "dataset_split"},
                                       {"dataset_test_split", "eval_split"},
                                       {"lr", "learning_rate"},
                                       {"no_cuda", "device", cpu_if_true},
                                       {"use_cpu", "device", cpu_if_true}};
  return list;
}

}  // namespace sft::config
