#include "hf_arguments.h"

#include <fmt/format.h>

#include <algorithm>

#include "words.h"

namespace sft::config {
namespace {

// true/1/1.0, false/0/0.0, none/null/empty, numbers and words each in one spelling.
std::string canonical(const std::string& value) {
  const std::string word = lower(trim(value));
  if (word.empty() || word == "null" || word == "{}" || word == "[]") return "none";
  if (const auto flag = parse_bool(word)) return *flag ? "true" : "false";
  const auto number = parse_number<double>(word);
  if (!number) return word;
  return *number == 0 ? "false" : *number == 1 ? "true" : fmt::format("{}", *number);
}

bool is_among(const std::vector<std::string>& values, const std::string& value) {
  return std::find(values.begin(), values.end(), canonical(value)) != values.end();
}

// How the machine is used, what is printed, the hub: no value changes a loss or a weight. And details of
// features that are off, because switching them on is refused below.
constexpr const char* kHarmless[] = {
    "activation_checkpointing_kwargs",
    "activation_offloading",
    "attn_implementation",
    "batch_eval_metrics",
    "bnb_4bit_quant_storage",
    "chars_per_token",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
    "dataset_batch_size",
    "ddp_backend",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "ddp_timeout",
    "debug",
    "do_eval",
    "do_predict",
    "do_train",
    "enable_jit_checkpoint",
    "eval_accumulation_steps",
    "eval_do_concat_batches",
    "eval_use_gather_object",
    "fp16_backend",
    "fp16_opt_level",
    "fsdp_config",
    "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap",
    "full_determinism",
    "gradient_checkpointing_kwargs",
    "half_precision_backend",
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_token",
    "ignore_bias_buffers",
    "include_num_input_tokens_seen",
    "include_tokens_per_second",
    "jit_mode_eval",
    "label_names",
    "length_column_name",
    "liger_kernel_config",
    "local_rank",
    "log_level_replica",
    "log_on_each_node",
    "logging_nan_inf_filter",
    "mp_parameters",
    "num_of_sequences",
    "pad_to_multiple_of",
    "padding_free",
    "past_index",
    "prediction_loss_only",
    "project",
    "push_to_hub_model_id",
    "push_to_hub_organization",
    "push_to_hub_token",
    "ray_scope",
    "remove_unused_columns",
    "restore_callback_states_from_checkpoint",
    "skip_memory_metrics",
    "tf32",
    "torch_compile",
    "torch_compile_backend",
    "torch_compile_mode",
    "torch_empty_cache_steps",
    "torchdynamo",
    "tpu_metrics_debug",
    "tpu_num_cores",
    "trackio_bucket_id",
    "trackio_space_id",
    "trackio_static_space_id",
    "trust_remote_code",
    "use_cache",
    "use_ipex",
    "use_legacy_prediction_loop",
    "use_liger",
    "use_liger_kernel",
};

constexpr const char* kNoQuantization = "use load_in_4bit = true for 4-bit weights";
constexpr const char* kNoPython = "Python objects cannot be given to sft-dist: leave it out";
constexpr const char* kNoSharding =
    "leave it out: every rank holds the whole model; gradient_checkpointing = true and a smaller "
    "per_device_train_batch_size save memory";

std::vector<HfArgument> arguments_with_harmless_values() {
  const std::vector<std::string> off{"false", "none"}, on{"true", "none"}, none{"none"};
  return {
      // numbers of the loss and of the optimizer
      {"adafactor", false, off, "use optim = adafactor"},
      {"optim_target_modules", false, none, "one optimizer serves all weights: leave it out"},
      // precision
      {"dtype",
       false,
       {"float32", "none"},
       "weights are kept in float32; for bf16 products set bf16 = true, for frozen weights in bf16 "
       "base_dtype",
       {"auto"}},
      {"torch_dtype",
       false,
       {"float32", "none"},
       "weights are kept in float32; for bf16 products set bf16 = true, for frozen weights in bf16 "
       "base_dtype",
       {"auto"}},
      {"fp16", false, off, "use bf16 = true, or float32"},
      {"bf16_full_eval", false, off, "evaluation runs in the precision of training: leave it out"},
      {"fp16_full_eval", false, off, "evaluation runs in the precision of training: leave it out"},
      {"bnb_4bit_compute_dtype", false, {"none"}, "bf16 = true computes in bf16, bf16 = false in float32"},
      {"bnb_4bit_use_double_quant", false, off, "use use_bnb_nested_quant = true"},
      {"bnb_4bit_quant_type", false, {"nf4", "none"}, "4-bit weights are NF4 here: leave it out"},
      {"load_in_8bit", false, off, kNoQuantization},
      {"quantization_config", false, none, kNoQuantization},
      // distribution
      {"accelerator_config", false, none,
       "leave it out; for accelerate's even batches set trl_compat = true"},
      {"dispatch_batches", false, off, "every rank reads its own rows: leave it out"},
      {"split_batches", false, off, "per_device_train_batch_size is the batch of one rank: leave it out"},
      {"auto_find_batch_size", false, off,
       "choose per_device_train_batch_size yourself; global_batch_size keeps the sum"},
      {"deepspeed", false, off, kNoSharding},
      {"fsdp", false, off, kNoSharding},
      {"parallelism_config", false, none, kNoSharding},
      {"use_mps_device", false, off, "use device = cpu or cuda"},
      // adapters
      {"lora_target_parameters", false, none, "adapters are for linear modules: use lora_target_modules"},
      {"lora_task_type",
       false,
       {"causal_lm", "none"},
       "sft-dist trains causal language models: leave it out"},
      {"peft_config", false, none, "set use_peft = true and lora_r, lora_alpha, lora_target_modules ..."},
      // data
      {"data_collator", false, none, kNoPython},
      {"dataset_config", false, none,
       "save that configuration with save_to_disk and name the folder in dataset_name"},
      {"dataset_kwargs", false, none, "sft-prepare prepares the data: leave it out"},
      {"dataset_streaming", false, off,
       "leave it out; for TRL's order of streamed rows, which is that of the file, set "
       "train_sampling_strategy = sequential"},
      {"streaming", false, off,
       "leave it out; for TRL's order of streamed rows, which is that of the file, set "
       "train_sampling_strategy = sequential"},
      {"datasets", false, none, "name the parts of a mixture in train_file = a.jsonl:0.7, b.jsonl:0.3"},
      {"ignore_data_skip", false, off, "a resumed run goes on at its next row, at no cost: leave it out"},
      {"infinite", false, off, "set max_steps: epochs repeat until it is reached"},
      {"truncation_mode",
       false,
       {"keep_start", "none"},
       "rows are cut at their end: use truncation_mode = keep_start"},
      // model
      {"model_init", false, none, kNoPython},
      {"model_init_kwargs", false, none, "leave it out; for bf16 products set bf16 = true, for frozen weights in bf16 base_dtype = bfloat16"},
      {"model_revision",
       false,
       {"main", "none"},
       "download that revision and name its folder in model_name_or_path"},
      // evaluation, best model, saving
      {"compute_loss_func", false, none, kNoPython},
      {"compute_metrics", false, none, kNoPython},
      {"preprocess_logits_for_metrics", false, none, kNoPython},
      {"include_for_metrics", false, none, "metrics of your own are not supported: leave it out"},
      {"include_inputs_for_metrics", false, off, "metrics of your own are not supported: leave it out"},
      {"push_to_hub", false, off, "output_dir is a Hugging Face model folder: upload it with the hf tool"},
      {"save_on_each_node", false, off, "use an output_dir that all machines share"},
      {"save_safetensors", false, on, "weights are always saved as safetensors: leave it out"},
      // arguments that are objects
      {"args", false, {}, "name files of options with --args on the command line"},
      {"callbacks", false, none, kNoPython},
      {"config", false, {}, "name files of options with --args on the command line"},
      {"optimizers", false, none, "use optim and lr_scheduler_type"},
      {"optimizer_cls_and_kwargs", false, none, "use optim and lr_scheduler_type"},
  };
}

}  // namespace

const std::vector<HfArgument>& hf_arguments() {
  static const std::vector<HfArgument> all = [] {
    std::vector<HfArgument> list = arguments_with_harmless_values();
    for (const char* name : kHarmless) list.push_back({name, true, {}, ""});
    list.push_back({"logging_dir", true, {}, "TensorBoard files go to output_dir/runs"});
    return list;
  }();
  return all;
}

const HfArgument* find_hf_argument(const std::string& name) {
  const auto& all = hf_arguments();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const HfArgument& argument) { return argument.name == name; });
  return found == all.end() ? nullptr : &*found;
}

bool is_harmless(const HfArgument& argument, const std::string& value) {
  return argument.any_value_is_harmless || is_among(argument.harmless, value);
}

bool is_taken_with_advice(const HfArgument& argument, const std::string& value) {
  return is_among(argument.taken_with_advice, value);
}

}  // namespace sft::config
