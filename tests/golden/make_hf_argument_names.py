"""Writes hf_argument_names.txt: every argument of trl's SFTConfig, ModelConfig and ScriptArguments (which includes transformers' TrainingArguments),
and the names that older versions had."""

import dataclasses
import pathlib

from trl import ModelConfig, ScriptArguments, SFTConfig

OLD = """overwrite_output_dir per_gpu_train_batch_size per_gpu_eval_batch_size warmup_ratio logging_dir save_safetensors no_cuda use_mps_device
jit_mode_eval fp16_opt_level half_precision_backend fp16_backend tpu_num_cores tpu_metrics_debug past_index fsdp_min_num_params
fsdp_transformer_layer_cls_to_wrap adafactor group_by_length use_legacy_prediction_loop include_inputs_for_metrics push_to_hub_model_id
push_to_hub_organization push_to_hub_token mp_parameters torchdynamo ray_scope include_tokens_per_second evaluation_strategy max_seq_length
tokenizer model formatting_func peft_config num_of_sequences chars_per_token""".split()


def main():
    names = set(OLD)
    for config in (SFTConfig, ModelConfig, ScriptArguments):
        names.update(field.name for field in dataclasses.fields(config))
    pathlib.Path(__file__).with_name("hf_argument_names.txt").write_text("\n".join(sorted(names)) + "\n")


if __name__ == "__main__":
    main()
