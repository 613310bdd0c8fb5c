"""A forecast of a scan, beside the scan itself and torch's own count of operations."""

from __future__ import annotations

import json
import math
from pathlib import Path

import families
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

import srdd
from srdd.measurement.forecast import BATCH_TOKENS, Forecast, forecast
from srdd.measurement.plan import Plan
from srdd.model.inventory import read_config, read_inventory
from srdd.prompts.batches import AUTO_TOKENS

TEXTS = ["one two three", "a longer text than the first one", "x y"]
SITES = ("output", "input", "weight", "linear")


def test_an_automatic_batch_is_the_same_as_in_a_scan() -> None:
    assert BATCH_TOKENS == AUTO_TOKENS


def predicted(
    folder: Path, tokenizer: PreTrainedTokenizerFast, plan: Plan
) -> tuple[Forecast, list[int]]:
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    inventory, config = read_inventory(str(folder)), read_config(str(folder))
    return forecast(inventory, config, plan, lengths, counted=True, dtype="float32"), lengths


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_counts_are_those_of_the_scan(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, family: str
) -> None:
    model = families.shared(family)
    model.save_pretrained(tmp_path)
    some = {"formats": ["mxfp4", "nvfp4"], "sites": SITES, "kl": True, "kl_check": 1}
    result, lengths = predicted(tmp_path, tokenizer, Plan.of(**some))
    scan = srdd.scan_model(model, tokenizer, TEXTS, **some)
    assert result.layers == len(scan.model.layers)
    assert (result.prompts, result.tokens) == (scan.calibration.prompts, sum(lengths))
    assert scan.calibration.tokens == result.tokens
    by_site = {site: sum(record.site == site for record in scan.records) for site in SITES}
    assert result.records == sum(by_site.values()), by_site
    assert result.document_bytes == pytest.approx(len(scan.to_json()), rel=0.6)


def test_operations_of_a_forward_pass_are_those_that_torch_counts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = families.shared("llama")
    model.save_pretrained(tmp_path)
    result, lengths = predicted(tmp_path, tokenizer, Plan.of(sites="input"))
    counted = 0
    for length in lengths:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.model(input_ids=torch.ones(1, length, dtype=torch.int64), use_cache=False)
        counted += counter.get_total_flops()
    attention = 4 * result.layers * model.config.hidden_size * sum(n * n for n in lengths) / 2
    assert result.operations["forward pass"] - attention == pytest.approx(
        2 * result.parameters * result.tokens
    )
    assert result.operations["forward pass"] == pytest.approx(counted, rel=0.1)


def test_a_model_that_is_larger_than_memory_does_not_fit(tmp_path: Path) -> None:
    shape = (1 << 20, 1 << 20)
    folder = tmp_path / "huge"
    folder.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 1 << 20, "vocab_size": 10}
    (folder / "config.json").write_text(json.dumps(config))
    sizes = {f"model.layers.{n}.mlp.down_proj.weight": "a.safetensors" for n in range(4)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": sizes}))
    inventory = read_inventory(str(folder))
    small = forecast(inventory, config, Plan.of(), [5, 6], counted=True, dtype="bfloat16")
    assert small.parameters == 0  # an index has no shapes
    shaped = type(inventory)(
        inventory.model,
        inventory.architecture,
        tuple(type(m)(m.name, m.role, m.layer, shape) for m in inventory.modules[:4]),
    )
    large = forecast(shaped, config, Plan.of(), [5, 6], counted=True, dtype="bfloat16")
    assert large.memory_bytes["weights"] == 2 * 4 * math.prod(shape)
    assert not large.fits
    assert large.seconds(1e12, 1e12) == pytest.approx(
        large.operations["forward pass"] / 1e12 + large.values / 1e12
    )
