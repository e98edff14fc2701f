"""Writes hf_argument_names.txt: every argument of trl's SFTConfig, ModelConfig, ScriptArguments, DatasetMixtureConfig and SFTTrainer, of transformers'
TrainingArguments, and those that older versions had. One a line: the name, a tab, and the default as JSON (empty: none, or not a plain value).

    python tests/golden/make_hf_argument_names.py
"""

import dataclasses
import inspect
import json
import pathlib

from transformers import TrainingArguments
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer

# transformers 4.57 and TRL 0.8 (constructor arguments and SFTConfig), no longer there in the installed versions.
OLDER = """overwrite_output_dir per_gpu_train_batch_size per_gpu_eval_batch_size warmup_ratio logging_dir save_safetensors no_cuda use_mps_device
jit_mode_eval fp16_opt_level half_precision_backend fp16_backend tpu_num_cores tpu_metrics_debug past_index fsdp_min_num_params
fsdp_transformer_layer_cls_to_wrap adafactor group_by_length use_legacy_prediction_loop include_inputs_for_metrics push_to_hub_model_id
push_to_hub_organization push_to_hub_token mp_parameters torchdynamo ray_scope include_tokens_per_second evaluation_strategy max_seq_length
tokenizer infinite num_of_sequences chars_per_token dataset_batch_size model_init torch_dtype""".split()


def default_of(field):
    value = field.default
    if value is dataclasses.MISSING or not isinstance(value, (bool, int, float, str, type(None))):
        return ""
    return json.dumps(getattr(value, "value", value))  # enumerations as their word


def main():
    defaults = dict.fromkeys(OLDER, "")
    defaults.update({name: "" for name in inspect.signature(SFTTrainer.__init__).parameters if name != "self"})
    for config in (TrainingArguments, ModelConfig, ScriptArguments, DatasetMixtureConfig, SFTConfig):  # SFTConfig's defaults win
        defaults.update({field.name: default_of(field) for field in dataclasses.fields(config)})
    lines = [f"{name}\t{default}\n" for name, default in sorted(defaults.items())]
    pathlib.Path(__file__).with_name("hf_argument_names.txt").write_text("".join(lines))


if __name__ == "__main__":
    main()
