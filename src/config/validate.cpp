#include "validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "option_table.h"
#include "sft/base/error.h"
#include "sft/config/parse.h"
#include "value.h"

namespace sft::config {
namespace {

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

  check_steps(found, "logging", o.logging.logging_strategy, o.logging.logging_steps);
  check_steps(found, "eval", o.eval.eval_strategy, o.eval.eval_steps.value_or(o.logging.logging_steps));
  check_steps(found, "save", o.save.save_strategy, o.save.save_steps);

  const bool no_eval_data = o.data.eval_dataset.empty();
  found.when(o.eval.eval_strategy != "no" && no_eval_data, {"eval_strategy", "eval_dataset"},
             "eval_strategy = {} needs eval_dataset, the HDF5 file to evaluate on", o.eval.eval_strategy);
  found.when(o.eval.eval_on_start && no_eval_data, {"eval_on_start", "eval_dataset"},
             "eval_on_start = true needs eval_dataset, the HDF5 file to evaluate on");

  const bool packs = o.data.packing || o.eval.eval_packing.value_or(false);
  found.when(packs && !o.data.max_length, {"packing", "eval_packing", "max_length"},
             "packing needs max_length, the length of the rows it fills");

  const AdapterOptions& adapter = o.adapter;
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
  return found.list;
}

std::vector<std::string> doubts(const Options& o) {
  Findings found;
  const auto& [max_steps, epochs, type, kwargs, warmup] = o.schedule;
  found.when(max_steps > 0 && warmup >= 1 && warmup > static_cast<double>(max_steps), {},
             "warmup_steps = {} is more than max_steps = {}: learning_rate is never reached", warmup,
             max_steps);
  found.when(o.batch.global_batch_size && o.batch.gradient_accumulation_steps != 1, {},
             "gradient_accumulation_steps = {} is not used: global_batch_size decides",
             o.batch.gradient_accumulation_steps);
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
