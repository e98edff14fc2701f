#include "validate.h"

#include <fmt/ranges.h>

#include "sft/base/error.h"
#include "sft/config/parse.h"

namespace sft::config {
namespace {

class Problems {
 public:
  template <typename... Args>
  void when(bool condition, fmt::format_string<Args...> format, Args&&... args) {
    if (condition) list.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  std::vector<std::string> list;
};

}  // namespace

std::vector<std::string> contradictions(const Options& o) {
  Problems problems;
  problems.when(o.schedule.max_steps == 0,
                "max_steps = 0: nothing would be trained; use a number of steps, or -1 for num_train_epochs");
  problems.when(
      o.batch.global_batch_size && *o.batch.global_batch_size % o.batch.per_device_train_batch_size != 0,
      "global_batch_size = {} is not a multiple of per_device_train_batch_size = {}",
      o.batch.global_batch_size.value_or(0), o.batch.per_device_train_batch_size);
  problems.when(
      o.logging.logging_strategy == "steps" && o.logging.logging_steps == 0,
      "logging_strategy = steps needs logging_steps above 0; to log nothing set logging_strategy = no");
  problems.when(o.save.save_strategy == "steps" && o.save.save_steps == 0,
                "save_strategy = steps needs save_steps above 0; to save nothing set save_strategy = no");
  const bool evaluates = o.eval.eval_strategy != "no" || o.eval.eval_on_start;
  problems.when(evaluates && o.data.eval_dataset.empty(),
                "evaluation is asked for ({}), but eval_dataset is not set",
                o.eval.eval_on_start ? "eval_on_start = true" : "eval_strategy = " + o.eval.eval_strategy);
  problems.when(o.eval.eval_strategy == "steps" && o.eval.eval_steps.value_or(o.logging.logging_steps) == 0,
                "eval_strategy = steps needs eval_steps above 0");
  problems.when(o.save.overwrite_output_dir && !o.save.resume_from_checkpoint.empty(),
                "overwrite_output_dir = true and resume_from_checkpoint = {} contradict one another",
                o.save.resume_from_checkpoint);
  problems.when(o.runtime.device == "cpu" && o.runtime.comm_backend == "nccl",
                "comm_backend = nccl needs device = cuda");
  problems.when(!o.prepare.train_file.empty() && !o.prepare.dataset_name.empty(),
                "train_file and dataset_name: give one source, not both");
  return problems.list;
}

void validate(const Options& options) {
  const std::vector<std::string> problems = contradictions(options);
  if (!problems.empty())
    throw base::Error(base::ExitCode::kConfig, fmt::format("{}", fmt::join(problems, "\n")));
}

void validate_for_training(const Options& options) {
  Problems problems;
  problems.when(options.model.model_name_or_path.empty(),
                "model_name_or_path is not set: the folder or id of the model to fine-tune");
  problems.when(options.data.train_dataset.empty(),
                "train_dataset is not set: the HDF5 file that sft-prepare writes");
  if (!problems.list.empty())
    throw base::Error(base::ExitCode::kConfig, fmt::format("{}", fmt::join(problems.list, "\n")));
}

}  // namespace sft::config
