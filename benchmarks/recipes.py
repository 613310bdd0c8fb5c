"""What recipes cost, measured, beside rules that people keep linears in more bits by.

    python examples/train_small_models.py        the models, once
    python -m benchmarks.recipes                 measure what is missing, rewrite the tables

For each model, one scan of some prompts gives the costs. For each budget, every rule that fits into
it is compared with the recipe of the rule's own bits, so that neither has more bits than the other.
All of them are simulated on the prompts of the scan and on as many others, in float32. Results of
each model are kept in build/recipes, so an interrupted run goes on; the tables go to
docs/recipes.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.sensitivity import MODELS, load
from srdd.documents.recipe import KEPT
from srdd.measurement.calls import targets_of
from srdd.measurement.forward import logits_of, tokenize_for
from srdd.measurement.labels import predicted, uniforms
from srdd.measurement.passes import Passes, differentiable
from srdd.measurement.scanner import scan_model
from srdd.measurement.scores import Scores
from srdd.model.selection import Selection
from srdd.model.structure import find_structure
from srdd.numerics.confidence import mean_interval
from srdd.numerics.formats import parse_spec
from srdd.prompts.batches import TokenizedPrompts, make_batches
from srdd.recipes import Question, question
from srdd.simulation import predictions
from srdd.simulation.simulator import simulate

KEPT_IN = Path("build/recipes")
PAGE = Path("docs/recipes.md")
BEGIN, END = "<!-- table: benchmarks/recipes.py -->", "<!-- end -->"

FORMATS = ("mxfp4:floor", "nvfp4:token", "mxfp8_e4m3:floor")
BUDGETS = (4.5, 5.0)
TOKENS, SAMPLES = 64, 4
PROMPTS = {"demo": 39}
"""Prompts of the scan, and as many others; 64 where a model is not named. The demo's are few."""

CPU = torch.device("cpu")
Sums = NDArray[np.float64]


def tokenized_of(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> TokenizedPrompts:
    return tokenize_for(model, tokenizer, list(texts), TOKENS, False)


def measured(
    model: nn.Module,
    prompts: TokenizedPrompts,
    assignments: Sequence[Mapping[str, str]],
) -> list[list[float]]:
    """KL of each assignment, nats summed over each prompt."""
    batches = list(make_batches(prompts, 32))
    results = []
    with torch.no_grad():
        plain = [logits_of(model, batch, CPU) for batch in batches]
        for formats in assignments:
            modules = {
                name: (None, None) if spec == KEPT else (spec, spec)
                for name, spec in formats.items()
            }
            sums = np.zeros(len(prompts.ids))
            with simulate(model, modules=modules):
                for batch, before in zip(batches, plain, strict=True):
                    kl = predictions.sums(before, logits_of(model, batch, CPU), batch)[:, 2]
                    sums[np.searchsorted(prompts.index, batch.index)] = kl.numpy()
            results.append(sums.tolist())
    return results


def scores_of(model: nn.Module, prompts: TokenizedPrompts) -> dict[tuple[str, str], Sums]:
    """s of every linear in every format, (samples, prompts)."""
    structure = find_structure(model)
    layers, others = targets_of(model, structure, Selection())
    passes = Passes(model, [layer.module for layer in structure.layers], layers, others, CPU)
    names = dict(zip(prompts.index, prompts.fingerprints, strict=True))
    specs = [parse_spec(spec) for spec in FORMATS]
    found: dict[tuple[str, str], Sums] = {}
    with differentiable(model):
        for batch in make_batches(prompts, 16):
            own = [names[number] for number in batch.index]
            positions = predicted(batch)
            drawn = uniforms(own, batch.input_ids.shape[1], SAMPLES, 0)
            scores = Scores(batch, specs, SAMPLES, "even", own, 0)
            labels = drawn[:, positions.rows, positions.columns]
            passes.run(batch, positions, labels, scores.consume)
            places = np.searchsorted(prompts.index, batch.index)
            for (target, spec, operands), s in scores.changes.items():
                if operands == "both":
                    key = (target.tensor, str(spec))
                    whole = found.setdefault(key, np.zeros((SAMPLES, len(prompts.ids))))
                    whole[:, places] = s.numpy()
    return found


def chosen(asked: Question, budget: float, before: float) -> list[dict[str, Any]]:
    """Every rule within a budget, the recipe of its bits, and the recipe of the budget.

    Rules of at most `before` bits belong to a smaller budget.
    """
    costs = asked.costs

    def described(name: str, point: Any, rule: str | None) -> dict[str, Any]:
        formats = [costs.formats[place] for place in point.choice]
        return {
            "name": name,
            "rule": rule,
            "budget": budget,
            "bits": point.bits,
            "predicted": point.kl,
            "formats": dict(zip((one.module for one in costs.linears), formats, strict=True)),
        }

    found = [described("recipe", asked.problem.point(asked.problem.at_bits(budget)), None)]
    for rule, point in asked.heuristics(budget):
        if before * (1 + 1e-6) < point.bits <= budget * (1 + 1e-6):
            own = asked.problem.point(asked.problem.at_bits(point.bits))
            found.append(described(rule.name, point, None))
            found.append(described("recipe", own, rule.name))
    return found


def measure(name: str, folder: Path) -> None:
    """Measure a model at every budget, if there is no result yet."""
    if result_file(name).exists():
        return
    count = PROMPTS.get(name, 64)
    model, tokenizer, texts, _ = load(name, folder, 2 * count)
    scan = scan_model(
        model,
        tokenizer,
        texts[:count],
        formats=list(FORMATS),
        sites=["input"],
        max_length=TOKENS,
        kl=True,
        kl_samples=SAMPLES,
        kl_check=0,
    )
    asked = question(scan, formats=FORMATS)
    low = asked.problem.lightest()
    befores = (low.bits, *BUDGETS)
    cases = [
        case
        for budget, before in zip(BUDGETS, befores, strict=False)
        for case in chosen(asked, budget, before)
    ]
    low_formats = [asked.costs.formats[place] for place in low.choice]
    lowest = {
        "name": "all low",
        "rule": None,
        "budget": None,
        "bits": low.bits,
        "predicted": low.kl,
        "formats": dict(zip((one.module for one in asked.costs.linears), low_formats, strict=True)),
    }
    cases.append(lowest)
    distinct = {json.dumps(case["formats"]): case["formats"] for case in cases}
    seen, new = (tokenized_of(model, tokenizer, part) for part in (texts[:count], texts[count:]))
    on_seen = dict(zip(distinct, measured(model, seen, list(distinct.values())), strict=True))
    on_new = dict(zip(distinct, measured(model, new, list(distinct.values())), strict=True))
    scores = scores_of(model, seen)
    for case in cases:
        key = json.dumps(case["formats"])
        case["seen"], case["new"] = on_seen[key], on_new[key]
        together = sum(
            scores[module, spec] for module, spec in case["formats"].items() if spec != KEPT
        )
        case["interactions"] = float(0.5 * np.square(together).mean(0).sum())
    KEPT_IN.mkdir(parents=True, exist_ok=True)
    result = {
        "model": name,
        "tokens": {
            "seen": [len(ids) - 1 for ids in seen.ids],
            "new": [len(ids) - 1 for ids in new.ids],
        },
        "cases": cases,
    }
    result_file(name).write_text(json.dumps(result))


def result_file(name: str) -> Path:
    return KEPT_IN / f"{name}.json"


def mnat(sums: Sums, tokens: Sums) -> str:
    """A figure in thousandths of a nat a token, with half its interval."""
    low, high = mean_interval(sums, tokens) or (np.nan, np.nan)
    return f"{1e3 * sums.sum() / tokens.sum():+.2f} ±{500 * (high - low):.2f}"


def pairs_of(result: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Rules, each with the recipe of its bits."""
    own = {(c["budget"], c["rule"]): c for c in result["cases"] if c["rule"]}
    return [
        (case, own[case["budget"], case["name"]])
        for case in result["cases"]
        if (case["budget"], case["name"]) in own and case["rule"] is None
    ]


def rule_rows(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for result in results:
        tokens = {part: np.array(result["tokens"][part], float) for part in ("seen", "new")}
        for rule, recipe in pairs_of(result):
            cells = [
                result["model"],
                f"{rule['budget']:g}",
                rule["name"],
                f"{rule['bits']:.2f}",
            ]
            for part in ("new", "seen"):
                theirs, ours = np.array(rule[part]), np.array(recipe[part])
                cells += [
                    f"{1e3 * theirs.sum() / tokens[part].sum():.2f}",
                    f"{1e3 * ours.sum() / tokens[part].sum():.2f}",
                    f"{mnat(ours - theirs, tokens[part])} {standing(ours - theirs, tokens[part])}",
                ]
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def standing(apart: Sums, tokens: Sums) -> str:
    """Whether the recipe costs less than the rule: surely, surely not, or open."""
    interval = mean_interval(apart, tokens)
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "open" if apart.any() else "same"
    return "less" if interval[1] < 0 else "**MORE**"


def summary(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """In how many cases recipes cost at most as much as rules of their bits."""
    sentences = []
    for part, prompts in (("new", "other prompts"), ("seen", "the prompts of the scan")):
        below, words = 0, []
        for result in results:
            tokens = np.array(result["tokens"][part], float)
            for rule, recipe in pairs_of(result):
                apart = np.array(recipe[part]) - np.array(rule[part])
                below += apart.sum() <= 0
                words.append(standing(apart, tokens))
        counts = {word: words.count(word) for word in ("less", "open", "same", "**MORE**")}
        sentences.append(
            f"On {prompts}: the recipe costs at most as much as the rule in {below} of "
            f"{len(words)} cases ({100 * below / max(1, len(words)):.0f} %). With intervals: less "
            f"in {counts['less']}, more in {counts['**MORE**']}, open in {counts['open']}, the "
            f"same choice in {counts['same']}."
        )
    return sentences


def prediction_rows(results: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Predicted over measured of each budget's recipe, and how many are within 25 %."""
    rows, ratios = [], []
    for result in results:
        tokens = {part: sum(result["tokens"][part]) for part in ("seen", "new")}
        lowest = next(case for case in result["cases"] if case["budget"] is None)
        factor = sum(lowest["seen"]) / tokens["seen"] / lowest["predicted"]
        for case in result["cases"]:
            if case["rule"] is not None or case["name"] not in ("recipe", "all low"):
                continue
            seen, new = (sum(case[part]) / tokens[part] for part in ("seen", "new"))
            together = case["interactions"] / tokens["seen"]
            every = [case["predicted"] / seen, together / seen, factor * case["predicted"] / seen]
            every.append(case["predicted"] / new)
            budget = "all low" if case["budget"] is None else f"{case['budget']:g}"
            if case["budget"] is not None:
                ratios.append(every)
            rows.append(
                "| "
                + " | ".join(
                    [
                        result["model"],
                        budget,
                        f"{case['bits']:.2f}",
                        f"{1e3 * case['predicted']:.2f}",
                        f"{1e3 * seen:.2f}",
                        f"{1e3 * new:.2f}",
                        *(f"{ratio:.2f}" for ratio in every),
                    ]
                )
                + " |"
            )
    within = (np.abs(np.array(ratios).reshape(-1, 4) - 1) <= 0.25).sum(0)
    return rows, [f"{count} of {len(ratios)}" for count in within]


def tables() -> str:
    """All results as Markdown."""
    files = [result_file(name) for name in MODELS if result_file(name).exists()]
    results = [json.loads(file.read_text()) for file in files]
    rows, within = prediction_rows(results)
    return "\n".join(
        [
            *summary(results),
            "",
            "| model | budget, bits | recipe's bits | predicted, mnat | measured, scan's prompts "
            "| other prompts | predicted / measured | with interactions | times the factor of all "
            "low | predicted / other prompts |",
            "|" + "---|" * 10,
            *rows,
            "| **within 25 %** |  |  |  |  |  | " + " | ".join(within) + " |",
            "",
            "| model | budget | rule | bits | rule, mnat | recipe | recipe - rule, other prompts "
            "| rule, scan's prompts | recipe | recipe - rule, scan's prompts |",
            "|" + "---|" * 10,
            *rule_rows(results),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="build/small-models", type=Path)
    parser.add_argument("--only", nargs="*", choices=MODELS, default=MODELS)
    options = parser.parse_args()
    for name in options.only:
        measure(name, options.models)
        print(f"{name}: measured", flush=True)
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.split(BEGIN)[0], text.split(BEGIN)[1].partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
