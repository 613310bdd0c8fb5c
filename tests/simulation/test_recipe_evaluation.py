"""Recipes in an evaluation: their figures by hand, what they run beside, what is refused."""

from __future__ import annotations

import copy
from typing import Any

import families
import numpy as np
import pytest
import torch
from made_recipes import for_llama
from torch import nn

import srdd
from srdd.documents.evaluation import Evaluation, RecipeResult
from srdd.errors import InputError, UsageError
from srdd.measurement.listener import Listener
from srdd.simulation.evaluator import Variant, evaluate_model

PROMPTS = [
    "one two three",
    "a somewhat longer prompt than the first, to make padding",
    "x = 1",
    "def f(x):\n    return x",
    "Zwölf Boxkämpfer",
]
FORMATS = {
    "model.layers.0.mlp.down_proj": "bf16",
    "model.layers.1.mlp.down_proj": "mxfp8_e4m3:floor",
    "model.layers.2.self_attn.v_proj": "bf16",
}


def quantized_by_hand(model: nn.Module, formats: dict[str, str], operands: str) -> nn.Module:
    """A copy whose weights are rounded, and whose linears round their inputs by hooks."""
    found = copy.deepcopy(model)
    for name, module in found.named_modules():
        if ".layers." not in name or not isinstance(module, nn.Linear):
            continue
        own = formats.get(name, "mxfp4:floor")
        if own == "bf16":
            continue
        with torch.no_grad():
            module.weight.copy_(srdd.fake_quantize(module.weight, own))
        if operands == "both":
            module.register_forward_pre_hook(
                lambda _, given, own=own: (srdd.fake_quantize(given[0], own),)
            )
    return found


def kl_by_hand(model: nn.Module, other: nn.Module, tokenizer: Any) -> list[float]:
    """KL of each prompt run alone, a mean over its predicted tokens."""
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            p, q = (each(ids).logits[0, :-1].double().log_softmax(-1) for each in (model, other))
        found.append(float((p.exp() * (p - q)).sum(-1).mean()))
    return found


@pytest.fixture(scope="module")
def evaluation(tokenizer: Any) -> Evaluation:
    model = families.shared("llama")
    recipes = {
        "mixed.json": for_llama(model, FORMATS),
        "weights.json": for_llama(model, FORMATS, "weight"),
    }
    return evaluate_model(model, tokenizer, PROMPTS, recipes=recipes, batch_size=3)


@pytest.mark.parametrize(("name", "operands"), [("mixed.json", "both"), ("weights.json", "weight")])
def test_a_recipe_costs_what_it_costs_by_hand(
    name: str, operands: str, evaluation: Evaluation, tokenizer: Any
) -> None:
    model = families.shared("llama")
    (result,) = (one for one in evaluation.results if one.assigned and one.assigned.name == name)
    expected = kl_by_hand(model, quantized_by_hand(model, FORMATS, operands), tokenizer)
    assert result.kl_by_prompt == pytest.approx(expected, rel=1e-5, abs=1e-8)
    assert result.simulated == 19
    assert (result.weights, result.activations) == (None, None)


def test_the_lowest_format_everywhere_is_what_simulating_it_gives(
    evaluation: Evaluation, tokenizer: Any
) -> None:
    model = families.shared("llama")
    both = evaluate_model(model, tokenizer, PROMPTS, variants=[Variant("mxfp4", "mxfp4")])
    weights = evaluate_model(model, tokenizer, PROMPTS, variants=[Variant("mxfp4")])
    lowest = [one for one in evaluation.results if one.assigned and one.assigned.role == "lowest"]
    # The second has the name of the first, and other operands.
    names = [one.assigned.name for one in lowest if one.assigned]
    assert names == ["all in mxfp4", "all in mxfp4 (weights.json)"]
    for one, plain in zip(lowest, (both, weights), strict=True):
        assert one.kl == pytest.approx(plain.results[1].kl, rel=1e-6)
        assert one.assigned is not None
        assert one.assigned.bits == 4.25
        assert one.assigned.predicted_kl == pytest.approx(21 * 2e-5)


def of_name(evaluation: Evaluation, name: str) -> RecipeResult:
    return next(each for each in evaluation.recipes if each.name == name)


def test_differences_are_paired_and_ratios_of_the_prediction(evaluation: Evaluation) -> None:
    results = {one.assigned.name: one for one in evaluation.results if one.assigned}
    counts = np.array(evaluation.text.predicted, dtype=np.float64)
    for recipe in evaluation.recipes:
        own = results[recipe.name]
        assert own.assigned is not None
        assert recipe.ratio == pytest.approx(own.assigned.predicted_kl / own.kl)
        assert recipe.of_these_weights is True
        assert len(recipe.others) > 2
        for other in recipe.others:
            beside = results[other.name]
            apart = (np.array(beside.kl_by_prompt) - np.array(own.kl_by_prompt)) * counts
            assert other.kl_difference == pytest.approx(beside.kl - own.kl, abs=1e-12)
            # The jackknife over prompts, with t of its effective degrees of freedom.
            without = np.array(
                [np.delete(apart, k).sum() / np.delete(counts, k).sum() for k in range(len(apart))]
            )
            error = np.sqrt(len(apart) - 1) * without.std()
            assert other.kl_difference_interval is not None
            low, high = other.kl_difference_interval
            assert (high - low) / 2 > 1.9 * error
            assert (high + low) / 2 == pytest.approx(other.kl_difference)
    others = {each.name for each in of_name(evaluation, "mixed.json").others}
    assert {"all in mxfp4", "weights.json"} < others


def test_rules_have_at_most_the_bits_of_the_recipe_and_its_pins(tokenizer: Any) -> None:
    model = families.shared("llama")
    recipe = for_llama(model, FORMATS)
    name = "model.layers.2.self_attn.v_proj"
    pinned = recipe.model_copy(
        update={
            "modules": [
                each.model_copy(update={"pinned": each.module == name}) for each in recipe.modules
            ]
        }
    )
    for own, kept in ((recipe, {}), (pinned, {name: "bf16"})):
        found = evaluate_model(model, tokenizer, PROMPTS, recipes={"it": own})
        results = {one.assigned.name: one for one in found.results if one.assigned}
        rules = {n: one for n, one in results.items() if one.assigned.role == "heuristic"}
        assert rules
        assert all(one.assigned.bits <= own.bits for one in rules.values())
        rule = "down_proj in mxfp8_e4m3"
        formats = {n: "mxfp8_e4m3:floor" for n in own.formats_by_module if "down" in n} | kept
        expected = kl_by_hand(model, quantized_by_hand(model, formats, "both"), tokenizer)
        assert rules[rule].kl_by_prompt == pytest.approx(expected, rel=1e-5, abs=1e-8)
        assert results["it"].kl is not None
        assert {each.name for each in found.recipes[0].others} == {*results} - {"it"}


def test_equal_recipes_do_not_differ(tokenizer: Any) -> None:
    model = families.shared("llama")
    recipes = {"one": for_llama(model, FORMATS), "same": for_llama(model, FORMATS)}
    found = evaluate_model(model, tokenizer, PROMPTS, recipes=recipes)
    names = [one.assigned.name for one in found.results if one.assigned]
    assert len(names) == len(set(names))
    (other,) = (each for each in of_name(found, "one").others if each.name == "same")
    assert (other.kl_difference, other.outcome) == (0.0, "open")


def test_a_recipe_that_keeps_everything_costs_nothing(tokenizer: Any) -> None:
    model = families.shared("llama")
    names = for_llama(model, {}).formats_by_module
    found = evaluate_model(
        model, tokenizer, PROMPTS, recipes={"it": for_llama(model, dict.fromkeys(names, "bf16"))}
    )
    assert (found.results[1].kl, found.results[1].simulated) == (0.0, 0)
    assert found.recipes[0].ratio is None
    outcomes = {each.name: each.outcome for each in found.recipes[0].others}
    assert outcomes["all in mxfp4"] == "costs more"


def test_other_weights_are_warned_of(tokenizer: Any) -> None:
    model = families.new("llama")
    recipe = for_llama(model, FORMATS)
    model.model.layers[0].mlp.up_proj.weight.data *= 1.01
    heard: list[str] = []
    found = evaluate_model(
        model, tokenizer, PROMPTS, recipes={"it": recipe}, listener=Listener(warned=heard.append)
    )
    assert found.recipes[0].of_these_weights is False
    assert any("it was made from a scan of other weights" in text for text in heard)


def test_a_linear_that_the_model_lacks_is_refused(tokenizer: Any) -> None:
    recipe = for_llama(families.shared("llama"), FORMATS)
    with pytest.raises(InputError) as caught:
        evaluate_model(families.new("phi3"), tokenizer, PROMPTS, recipes={"it": recipe})
    assert "it names 15 linears that this model does not have" in caught.value.message
    assert "model.layers.0.self_attn.q_proj" in caught.value.message
    assert "model.layers.0.self_attn.qkv_proj" in caught.value.hint


def test_patterns_and_recipes_exclude_each_other(tokenizer: Any) -> None:
    model = families.shared("llama")
    with pytest.raises(UsageError, match="do not go with recipes"):
        evaluate_model(
            model, tokenizer, PROMPTS, recipes={"it": for_llama(model, {})}, include=["mlp"]
        )


def test_the_document_comes_back_and_old_ones_are_read(
    evaluation: Evaluation, tmp_path: Any
) -> None:
    evaluation.save(tmp_path / "out.json")
    assert Evaluation.load(tmp_path / "out.json") == evaluation
    old = evaluation.model_dump(mode="json")
    old["results"] = [one for one in old["results"] if one["assigned"] is None] * 2
    old["results"][1] = old["results"][1] | {"weights": "mxfp4:floor"}
    for one in old["results"]:
        del one["assigned"]
    del old["recipes"]
    assert Evaluation.from_object(old, "old").recipes == []


def test_a_recipe_without_its_result_is_refused(evaluation: Evaluation) -> None:
    content = evaluation.model_dump(mode="json")
    content["recipes"][0]["others"][0]["name"] = "none"
    with pytest.raises(InputError, match="compared with what has no result"):
        Evaluation.from_object(content, "it")
