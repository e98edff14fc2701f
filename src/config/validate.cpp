#include "validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <set>

#include "option_table.h"
#include "sft/base/error.h"
#include "sft/config/parse.h"
#include "sft/config/path_list.h"
#include "value.h"

namespace sft::config {
namespace {

using Names = std::vector<std::string>;

class Findings {
 public:
  template <typename... Args>
  void when(bool condition, std::vector<std::string> options, fmt::format_string<Args...> format,
            Args&&... args) {
    if (condition) list.push_back({std::move(options), fmt::format(format, std::forward<Args>(args)...)});
  }
  std::vector<Contradiction> list;
};

// A strategy of "steps" needs a number of steps.
void check_steps(Findings& found, const std::string& what, const std::string& strategy, double steps) {
  found.when(strategy == "steps" && steps == 0, {what + "_strategy", what + "_steps", "logging_steps"},
             "{0}_strategy = steps needs {0}_steps above 0 (never: {0}_strategy = no)", what);
}

// Whether every saving step is an evaluation step, as transformers asks where the best model is loaded.
bool is_multiple(double save_steps, double eval_steps) {
  if (eval_steps <= 0 || (save_steps < 1) != (eval_steps < 1)) return false;
  constexpr double kFractions = 1e6;
  const double unit = save_steps < 1 ? kFractions : 1;
  const double eval = std::round(eval_steps * unit);
  return eval > 0 && std::fmod(std::round(save_steps * unit), eval) == 0;
}

void check_best_model(Findings& found, const Options& o) {
  const std::string &eval = o.eval.eval_strategy, &save = o.save.save_strategy;
  const std::string metric = metric_for_best_model(o.best);
  const bool loads = o.best.load_best_model_at_end, stops = o.best.early_stopping_patience.has_value();
  const double eval_steps = o.eval.eval_steps.value_or(o.logging.logging_steps);
  found.when(loads && eval == "no", {"load_best_model_at_end", "eval_strategy"},
             "load_best_model_at_end = true needs evaluations: set eval_strategy");
  found.when(loads && eval != "no" && save != "best" && save != eval,
             {"load_best_model_at_end", "save_strategy", "eval_strategy"},
             "load_best_model_at_end = true needs save_strategy = eval_strategy or save_strategy = best, but "
             "eval_strategy = {} and save_strategy = {}",
             eval, save);
  found.when(
      loads && eval == "steps" && save == "steps" && !is_multiple(o.save.save_steps, eval_steps),
      {"load_best_model_at_end", "save_steps", "eval_steps"},
      "load_best_model_at_end = true needs save_steps to be a multiple of eval_steps, but save_steps = {} "
      "and eval_steps = {}",
      o.save.save_steps, eval_steps);
  found.when(save == "best" && (metric.empty() || eval == "no"),
             {"save_strategy", "metric_for_best_model", "eval_strategy"},
             "save_strategy = best needs metric_for_best_model (loss, for instance) and eval_strategy");
  found.when(
      stops && (metric.empty() || eval == "no"),
      {"early_stopping_patience", "metric_for_best_model", "eval_strategy"},
      "early_stopping_patience = {} needs metric_for_best_model (loss, for instance) and eval_strategy",
      o.best.early_stopping_patience.value_or(0));
  found.when(!stops && o.best.early_stopping_threshold > 0,
             {"early_stopping_threshold", "early_stopping_patience"},
             "early_stopping_threshold = {} needs early_stopping_patience", o.best.early_stopping_threshold);
  found.when(metric.ends_with("_runtime") || metric == "runtime" || metric.ends_with("_per_second"),
             {"metric_for_best_model"}, "metric_for_best_model = {} tells how fast a machine is, not a model",
             metric);
}

std::set<std::string> names_of(const std::string& paths) {
  std::set<std::string> names;
  for (const ListedPath& entry : named_paths(paths)) names.insert(entry.name);
  return names;
}

void check_evaluation_sets(Findings& found, const Options& o) {
  const std::string &file = o.prepare.eval_file, &dataset = o.data.eval_dataset;
  found.when(!file.empty() && !dataset.empty() && names_of(file) != names_of(dataset),
             {"eval_file", "eval_dataset"},
             "eval_file = {} and eval_dataset = {} must name the same evaluation sets", file, dataset);
  const bool split = o.prepare.test_split_size.has_value();
  found.when(split && (!file.empty() || !o.prepare.eval_split.empty()),
             {"test_split_size", "eval_file", "eval_split"},
             "test_split_size makes the evaluation set of training rows: leave out eval_file and eval_split");
  found.when(split && (dataset.empty() || names_of(dataset).size() > 1), {"test_split_size", "eval_dataset"},
             "test_split_size needs eval_dataset, the one HDF5 file for the rows set aside");
  found.when(!o.prepare.eval_split.empty() && names_of(dataset).size() > 1, {"eval_split", "eval_dataset"},
             "eval_split = {} is one evaluation set, eval_dataset names several", o.prepare.eval_split);
}

bool is_changed(const Options& o, const std::string& name) {
  const OptionRow& row = *find_option(name);
  return plain_value(row, o) != plain_value(row, {});
}

Names changed_adapter_options(const Options& o) {
  const std::string group = find_option("use_peft")->group;
  Names names;
  for (const OptionRow& row : option_table()) {
    if (row.group == group && is_changed(o, row.name)) names.push_back(row.name);
  }
  return names;
}

}  // namespace

std::vector<Contradiction> contradictions(const Options& o) {
  Findings found;
  found.when(
      o.schedule.max_steps <= 0 && o.schedule.num_train_epochs <= 0, {"max_steps", "num_train_epochs"},
      "max_steps = {} and num_train_epochs = {}: nothing would be trained; one of them must be above 0",
      o.schedule.max_steps, o.schedule.num_train_epochs);

  const int64_t global = o.batch.global_batch_size.value_or(0),
                per_device = o.batch.per_device_train_batch_size;
  found.when(per_device > 0 && global % per_device != 0, {"global_batch_size", "per_device_train_batch_size"},
             "global_batch_size = {} is not a multiple of per_device_train_batch_size = {}", global,
             per_device);

  found.when(
      o.batch.micro_batch_tokens && o.runtime.trl_compat, {"micro_batch_tokens", "trl_compat"},
      "micro_batch_tokens = {} cuts micro-batches by tokens; trl_compat = true reproduces means over those "
      "of TRL, which are cut by rows: leave one of them out",
      o.batch.micro_batch_tokens.value_or(0));

  check_steps(found, "logging", o.logging.logging_strategy, o.logging.logging_steps);
  check_steps(found, "eval", o.eval.eval_strategy, o.eval.eval_steps.value_or(o.logging.logging_steps));
  check_steps(found, "save", o.save.save_strategy, o.save.save_steps);

  check_best_model(found, o);

  const bool no_eval_data = o.data.eval_dataset.empty();
  found.when(o.eval.eval_strategy != "no" && no_eval_data, {"eval_strategy", "eval_dataset"},
             "eval_strategy = {} needs eval_dataset, the HDF5 file to evaluate on", o.eval.eval_strategy);
  found.when(o.eval.eval_on_start && no_eval_data, {"eval_on_start", "eval_dataset"},
             "eval_on_start = true needs eval_dataset, the HDF5 file to evaluate on");

  const bool packs = o.data.packing || o.eval.eval_packing.value_or(false);
  found.when(packs && !o.data.max_length, {"packing", "eval_packing", "max_length"},
             "packing needs max_length, the length of the rows it fills");

  found.when(o.loss.loss_type != "nll" && o.loss.label_smoothing_factor > 0,
             {"loss_type", "label_smoothing_factor"},
             "label_smoothing_factor = {} needs loss_type = nll, but it is {}", o.loss.label_smoothing_factor,
             o.loss.loss_type);
  const AdapterOptions& adapter = o.adapter;
  const std::string& targets = adapter.lora_target_modules;
  found.when(targets.find(',') != std::string::npos && targets.find("all-linear") != std::string::npos,
             {"lora_target_modules"},
             "lora_target_modules = {}: all-linear goes with nothing else; it names every linear but the head",
             targets);
  found.when(!adapter.use_peft && !adapter.adapter_name_or_path.empty(), {"use_peft", "adapter_name_or_path"},
             "adapter_name_or_path = {} needs use_peft = true", adapter.adapter_name_or_path);
  found.when(!adapter.use_peft && adapter.base_dtype != "float32", {"use_peft", "base_dtype"},
             "base_dtype = {} is for weights that are not trained: it needs use_peft = true",
             adapter.base_dtype);
  found.when(!adapter.use_peft && adapter.load_in_4bit, {"use_peft", "load_in_4bit"},
             "load_in_4bit = true is for weights that are not trained: it needs use_peft = true");
  found.when(!adapter.load_in_4bit && adapter.use_bnb_nested_quant, {"load_in_4bit", "use_bnb_nested_quant"},
             "use_bnb_nested_quant = true needs load_in_4bit = true");

  found.when(o.save.overwrite_output_dir && !o.save.resume_from_checkpoint.empty(),
             {"overwrite_output_dir", "resume_from_checkpoint"},
             "overwrite_output_dir = true and resume_from_checkpoint = {}: choose one",
             o.save.resume_from_checkpoint);
  found.when(o.logging.report_to.find("none,") != std::string::npos ||
                 o.logging.report_to.find(",none") != std::string::npos,
             {"report_to"}, "report_to = {}: none goes with nothing else", o.logging.report_to);
  found.when(o.runtime.device == "cpu" && o.runtime.comm_backend == "nccl", {"device", "comm_backend"},
             "comm_backend = nccl is for GPUs, but device = cpu");
  found.when(!o.prepare.train_file.empty() && !o.prepare.dataset_name.empty(), {"train_file", "dataset_name"},
             "train_file and dataset_name are both set: give one source");
  check_evaluation_sets(found, o);
  const bool masked = o.prepare.assistant_only_loss || o.prepare.completion_only_loss.value_or(false);
  found.when(masked && !o.prepare.formatting_func.empty(),
             {"formatting_func", "assistant_only_loss", "completion_only_loss"},
             "formatting_func makes plain text of a row, which has no completion and no assistant: leave out "
             "{}_only_loss",
             o.prepare.assistant_only_loss ? "assistant" : "completion");
  return found.list;
}

std::vector<std::string> doubts(const Options& o) {
  Findings found;
  const auto& [max_steps, epochs, type, kwargs, warmup] = o.schedule;
  found.when(max_steps > 0 && warmup >= 1 && warmup > static_cast<double>(max_steps), {},
             "warmup_steps = {} is more than max_steps = {}: learning_rate is never reached", warmup,
             max_steps);
  found.when(o.optimizer.optim == "schedule_free_adamw" && type != "constant", {},
             "optim = schedule_free_adamw is meant for lr_scheduler_type = constant; with {} the learning "
             "rate changes "
             "besides",
             type);
  found.when(o.batch.global_batch_size && o.batch.gradient_accumulation_steps != 1, {},
             "gradient_accumulation_steps = {} is not used: global_batch_size decides",
             o.batch.gradient_accumulation_steps);
  found.when(type == "constant" && warmup > 0 && o.optimizer.optim != "schedule_free_adamw", {},
             "warmup_steps = {} is not used: lr_scheduler_type = constant has no warm-up, "
             "constant_with_warmup has",
             warmup);
  found.when(o.eval.eval_strategy == "no" && o.eval.eval_steps, {},
             "eval_steps = {} is not used: eval_strategy = no never evaluates", o.eval.eval_steps.value_or(0));
  const bool packs = o.data.packing || o.eval.eval_packing.value_or(false);
  found.when(!packs && is_changed(o, "packing_strategy"), {}, "packing_strategy = {} is not used: packing = false",
             o.data.packing_strategy);
  found.when(!packs && is_changed(o, "packing_scope"), {}, "packing_scope = {} is not used: packing = false",
             o.data.packing_scope);
  const Names of_adapters = o.adapter.use_peft ? Names{} : changed_adapter_options(o);
  found.when(!of_adapters.empty(), {}, "use_peft = false: the whole model is trained; not used: {}",
             fmt::join(of_adapters, ", "));
  found.when(o.save.save_only_model && !o.save.resume_from_checkpoint.empty(), {},
             "save_only_model = true: of its checkpoints only the one made when it is asked to stop can be resumed");
  std::vector<std::string> texts;
  for (const Contradiction& finding : found.list) texts.push_back(finding.text);
  return texts;
}

void throw_problems(const std::vector<std::string>& problems) {
  if (!problems.empty())
    throw base::Error(base::ExitCode::kConfig, fmt::format("{}", fmt::join(problems, "\n")));
}

void validate(const Options& options) {
  std::vector<std::string> problems;
  for (const OptionRow& row : option_table()) {
    if (const auto problem = check_value(row, options)) {
      problems.push_back(fmt::format("{} = {}: {}", row.name, plain_value(row, options), *problem));
    }
  }
  for (const Contradiction& finding : contradictions(options)) problems.push_back(finding.text);
  throw_problems(problems);
}

void validate_for_training(const Options& options) {
  std::vector<std::string> problems;
  if (options.model.model_name_or_path.empty()) {
    problems.push_back("model_name_or_path is not set: the folder or id of the model to fine-tune");
  }
  if (options.data.train_dataset.empty()) {
    problems.push_back("train_dataset is not set: the HDF5 file that sft-prepare writes");
  }
  throw_problems(problems);
}

}  // namespace sft::config
