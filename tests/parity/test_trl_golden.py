"""sft-dist against stored runs of TRL (tests/golden/trl_*.json, qlora.json): needs neither TRL nor transformers, and takes seconds."""

import json
from pathlib import Path

import pytest

from parity import models, ours, token_file
from parity.projections import project

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def write_out(golden: dict, folder: Path) -> dict:
    """Settings of a run on the model and data of a golden file."""
    config = golden["config"]
    model = models.write_model(folder / "model", config, golden["weights_seed"])
    (model / "tokenizer.json").write_text('{"only": "hashed"}')
    data = token_file.write_token_file(
        folder / "train.h5", golden["rows"], model, vocab_size=config["vocab_size"], bos=config["bos_token_id"],
        eos=config["eos_token_id"], pad=config["pad_token_id"])
    return golden["settings"] | {"model_name_or_path": model, "train_dataset": data, "save_strategy": "no", "trl_compat": True,
                                 "output_dir": folder / "out"}


@pytest.fixture(scope="session", params=sorted(models.CONFIGS))
def prepared(request, tmp_path_factory):
    golden = json.loads((GOLDEN / f"trl_{request.param}.json").read_text())
    return golden, write_out(golden, tmp_path_factory.mktemp(request.param))


def check_steps(run: ours.Run, golden: dict, grad_norm: float = 2e-5) -> None:
    assert [s["step"] for s in run.steps] == [s["step"] for s in golden["steps"]]
    for step, expected in zip(run.steps, golden["steps"]):
        where = f"step {step['step']}"
        assert step["loss"] == pytest.approx(expected["loss"], abs=1e-5 * max(1, expected["loss"])), where
        assert step["grad_norm"] == pytest.approx(expected["grad_norm"], rel=grad_norm), where
        assert step["learning_rate"] == pytest.approx(expected["learning_rate"], abs=1e-9), where
        assert step["num_tokens"] == expected["num_tokens"], where
        assert step["epoch"] == pytest.approx(expected["epoch"], rel=1e-12), where
    assert run.summary["train_loss"] == pytest.approx(golden["train_loss"], rel=1e-5)


def check_tensors(weights: dict, golden: dict) -> None:
    assert sorted(weights) == sorted(golden["tensors"])
    for name, values in weights.items():
        norm, *products = project(name, values)
        expected_norm, *expected_products = golden["tensors"][name]
        # Key biases have a zero gradient in exact arithmetic; Adam makes full steps of their rounding errors.
        share = 1e-2 if "k_proj.bias" in name or "c_attn.bias" in name else 2e-4
        assert norm == pytest.approx(expected_norm, rel=share), name
        for product, expected in zip(products, expected_products):
            assert product == pytest.approx(expected, abs=3 * share * expected_norm), name


# The same eight rows a step, however they are cut.
@pytest.mark.parametrize("batch, accumulation, ranks", [(8, 1, 1), (2, 2, 2)])
def test_follows_stored_run(prepared, batch, accumulation, ranks):
    golden, settings = prepared
    run = ours.run(settings | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation,
                               "output_dir": f"{settings['output_dir']}-{ranks}"}, ranks)
    check_steps(run, golden)
    check_tensors(run.weights(), golden)


@pytest.mark.parametrize("scales, grad_norm, batch, accumulation, ranks", [("plain", 2e-5, 8, 1, 1), ("nested", 2e-4, 2, 2, 2)])
def test_qlora_follows_stored_run(scales, grad_norm, batch, accumulation, ranks, tmp_path):
    """PEFT over bitsandbytes' 4-bit linears, on the CPU in fp32 (make_qlora.py). bitsandbytes' CPU code looks the code of a nested scale up in a
    table of rounded values: 6 of these 2160 scales have the code next to the nearest."""
    golden = json.loads((GOLDEN / "qlora.json").read_text())
    golden |= golden[scales]
    adapter = models.write_adapter(tmp_path / "adapter", golden["config"], golden["lora"], golden["weights_seed"])
    run = ours.run(write_out(golden, tmp_path) | {
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation, "use_peft": True, "adapter_name_or_path": adapter,
        "load_in_4bit": True, "use_bnb_nested_quant": scales == "nested"}, ranks)
    assert abs(golden["steps"][0]["loss"] - golden["first_loss_in_fp32"]) > 1e-3, "four bits leave a trace"
    check_steps(run, golden, grad_norm)
    check_tensors(run.weights(), golden)
