#include "hf_names.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <sstream>
#include <vector>

namespace sft::config {
namespace {

constexpr const char* kOff = "false|0|none|no|";
constexpr const char* kAdapters = "adapters (LoRA) are not supported yet; train all weights, or leave it out";
constexpr const char* kFsdp = "sharding is not supported yet; leave it out: ranks hold full copies";

// Performance, hub, hardware and bookkeeping: no value of these changes a loss.
constexpr const char* kWithoutEffect[] = {
    "accelerator_config",
    "activation_offloading",
    "attn_implementation",
    "average_tokens_across_devices",
    "batch_eval_metrics",
    "chars_per_token",
    "dataloader_in_order",
    "dataloader_multiprocessing_context",
    "dataloader_num_workers",
    "dataloader_persistent_workers",
    "dataloader_pin_memory",
    "dataloader_prefetch_factor",
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
    "full_determinism",
    "gradient_checkpointing_kwargs",
    "activation_checkpointing_kwargs",
    "half_precision_backend",
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_token",
    "ignore_bias_buffers",
    "include_for_metrics",
    "include_inputs_for_metrics",
    "include_num_input_tokens_seen",
    "include_tokens_per_second",
    "jit_mode_eval",
    "label_names",
    "length_column_name",
    "liger_kernel_config",
    "local_rank",
    "log_level_replica",
    "log_on_each_node",
    "logging_dir",
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
    "save_on_each_node",
    "save_safetensors",
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
    "use_legacy_prediction_loop",
    "use_liger_kernel",
    "use_mps_device",
    "fsdp_config",
    "fsdp_min_num_params",
    "fsdp_transformer_layer_cls_to_wrap",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_target_parameters",
    "lora_modules_to_save",
    "lora_task_type",
    "use_rslora",
    "use_dora",
    "bnb_4bit_quant_type",
    "bnb_4bit_quant_storage",
    "use_bnb_nested_quant",
    "packing_strategy",
    "bf16_full_eval",
    "dataset_streaming",
    "router_aux_loss_coef",
    "greater_is_better",
};

// These change what is computed when they are switched on.
const std::vector<HfArgument>& with_effect() {
  static const std::vector<HfArgument> list{
      {"adafactor", kOff, "use optim = adamw_torch or sgd"},
      {"assistant_only_loss", kOff, "loss masks for chat data are not supported yet"},
      {"auto_find_batch_size", kOff, "set per_device_train_batch_size to what fits"},
      {"chat_template_path", kOff, "chat data is not supported yet"},
      {"completion_only_loss", kOff, "loss masks for prompts are not supported yet"},
      {"dataset_config", kOff,
       "save the configuration you need with datasets' save_to_disk and name that folder in dataset_name"},
      {"dataset_kwargs", "none|{}|", "it is not supported; leave it out"},
      {"deepspeed", kOff, "leave it out: sft-dist does its own data parallelism"},
      {"dtype", "float32|auto|none|", "weights are kept in float32; for bf16 products set bf16 = true"},
      {"eos_token", "none|", "set it in the tokenizer's files"},
      {"eval_delay", "0|0.0|none|", "it is not supported; leave it out"},
      {"eval_packing", kOff, "packing is not supported yet"},
      {"fp16", kOff, "use bf16 = true"},
      {"fp16_full_eval", kOff, "evaluation runs in the training precision"},
      {"fsdp", "false|none|[]|", kFsdp},
      {"group_by_length", kOff,
       "use train_sampling_strategy = random; padding does not exist here, so grouping gains nothing"},
      {"ignore_data_skip", kOff, "a resumed run goes on at the next row"},
      {"label_smoothing_factor", "0|0.0|none|", "label smoothing is not supported yet"},
      {"load_best_model_at_end", kOff,
       "it is not supported yet: pick the checkpoint by eval_loss in trainer_log.jsonl"},
      {"load_in_4bit", kOff, "quantised training is not supported yet"},
      {"load_in_8bit", kOff, "quantised training is not supported yet"},
      {"loss_type", "nll|chunked_nll|none|", "only the negative log-likelihood is supported"},
      {"metric_for_best_model", "none|loss|eval_loss|", "it is not supported yet"},
      {"model_init_kwargs", "none|{}|", "it is not supported; leave it out"},
      {"model_revision", "main|none|", "name the folder of the revision in model_name_or_path"},
      {"neftune_noise_alpha", "none|0|0.0|", "NEFTune is not supported yet"},
      {"optim_args", "none|", "it is not supported; use adam_beta1, adam_beta2, adam_epsilon"},
      {"optim_target_modules", "none|", "it is not supported; leave it out"},
      {"packing", kOff, "packing is not supported yet; padding does not exist here, so it gains little"},
      {"pad_token", "none|", "set it in the tokenizer's files"},
      {"parallelism_config", "none|", "it is not supported; leave it out"},
      {"peft_config", "none|", kAdapters},
      {"push_to_hub", kOff, "upload output_dir yourself: it is a model folder"},
      {"truncation_mode", "keep_start|none|", "rows are cut at the end"},
      {"use_peft", kOff, kAdapters},
  };
  return list;
}

}  // namespace

const HfArgument* find_hf_argument(const std::string& name) {
  static const std::vector<HfArgument> all = [] {
    std::vector<HfArgument> list = with_effect();
    for (const char* without : kWithoutEffect) list.push_back({without, "", ""});
    return list;
  }();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const HfArgument& argument) { return argument.name == name; });
  return found == all.end() ? nullptr : &*found;
}

std::optional<std::string> hf_argument_problem(const HfArgument& argument, const std::string& value) {
  if (argument.harmless.empty()) return std::nullopt;
  std::string lower = value;
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  std::istringstream harmless(argument.harmless);
  for (std::string word; std::getline(harmless, word, '|');) {
    if (word == lower) return std::nullopt;
  }
  if (lower.empty()) return std::nullopt;
  return argument.remedy;
}

}  // namespace sft::config
