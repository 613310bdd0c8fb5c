"""How well scores of single linears agree with the KL divergence that quantizing them causes.

    python examples/train_small_models.py        the models, once
    python -m benchmarks.sensitivity             measure what is missing, rewrite the table

For each model and format, every linear is quantized on its own (both operands) and the KL of the
next-token distribution measured directly. Scores that could stand in for it are compared by
Kendall's tau and, ours, by Spearman's rank correlation and by its ratio to the direct figure.
Results of each model and format are kept in build/sensitivity, so an interrupted run goes on; the
table goes to docs/sensitivity.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from srdd.measurement.calls import LinearCall, Target, targets_of
from srdd.measurement.forward import tokenize_for
from srdd.measurement.labels import predicted, uniforms
from srdd.measurement.passes import Passes, differentiable
from srdd.measurement.scanner import scan_model
from srdd.measurement.scores import Scores
from srdd.measurement.sensitivity import measure_sensitivity
from srdd.model.selection import Selection
from srdd.model.structure import Structure, find_structure
from srdd.numerics.confidence import mean_interval
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.kernels import quantize
from srdd.prompts.batches import TokenizedPrompts, make_batches
from srdd.prompts.reading import builtin
from srdd.simulation.direct import Change, measure_directly, passes_of

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

KEPT = Path("build/sensitivity")
TABLE = Path("docs/sensitivity.md")
BEGIN, END = "<!-- table: benchmarks/sensitivity.py -->", "<!-- end -->"

MODELS = ("demo", "gpt2", "llama", "mixtral", "gemma", "heavy")
FORMATS = ("mxfp4:floor", "mxfp4:even", "nvfp4:token", "int4_g32")
PROMPTS, TOKENS, SAMPLES = 64, 64, 4
LOCAL = {
    "sqnr_db": "SQNR",
    "relative_error": "relative error",
    "deadzone": "deadzone",
    "relative_l1": "relative L1",
}
OTHERS = {
    "product": "error of the product",
    "element": "gradient, element by element",
    "fisher": "diagonal Fisher",
}


@dataclass
class Baselines(Scores):
    """Beside our s: the sum of squares of g dY, and of squared gradients times squared errors."""

    element: dict[tuple[str, str], float] = field(default_factory=dict)
    fisher: dict[tuple[str, str], float] = field(default_factory=dict)

    def _add_linear(self, target: Target, calls: Any) -> None:
        super()._add_linear(target, calls)
        for call, gradient in calls:
            self._add_baselines(target, call, gradient)

    @torch.no_grad()
    def _add_baselines(self, target: Target, call: LinearCall, gradient: Tensor) -> None:
        tokens = self.batch.input_ids.shape[1]
        w = (call.weight.data.t() if call.weight.transposed else call.weight.data).contiguous()
        g = gradient.reshape(self.samples, len(call.x), -1)
        at = torch.arange(len(call.x)) if call.tokens is None else call.tokens
        prompt = at // tokens
        for spec in self.specs:
            xq = quantize(call.x.contiguous(), spec, "even", torch.arange(len(call.x)))
            wq = quantize(w, spec, "even", torch.arange(len(w)))
            dy = xq @ wq.t() - call.x @ w.t()
            key = (target.tensor, str(spec))
            squares = float((g * dy).double().square().sum())
            self.element[key] = self.element.get(key, 0.0) + squares / self.samples
            dw2 = (wq - w).square()
            total = 0.0
            for number in prompt.unique():
                rows = prompt == number
                matrix = g[:, rows].transpose(1, 2) @ call.x[rows]  # (samples, out, in)
                total += float((matrix.square() * dw2).sum())
            self.fisher[key] = self.fisher.get(key, 0.0) + total / self.samples


def baselines(
    model: nn.Module, structure: Structure, tokenized: TokenizedPrompts, specs: list[FormatSpec]
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """The two other scores from gradients, by tensor and format, summed over all prompts."""
    layers, others = targets_of(model, structure, Selection())
    modules = [layer.module for layer in structure.layers]
    passes = Passes(model, modules, layers, others, torch.device("cpu"))
    names = dict(zip(tokenized.index, tokenized.fingerprints, strict=True))
    element: dict[tuple[str, str], float] = {}
    fisher: dict[tuple[str, str], float] = {}
    with differentiable(model):
        for batch in make_batches(tokenized, 16):
            own = [names[number] for number in batch.index]
            positions = predicted(batch)
            drawn = uniforms(own, batch.input_ids.shape[1], SAMPLES, 0)
            scores = Baselines(batch, specs, SAMPLES, "even", own, 0)
            passes.run(
                batch, positions, drawn[:, positions.rows, positions.columns], scores.consume
            )
            for total, new in ((element, scores.element), (fisher, scores.fisher)):
                for key, value in new.items():
                    total[key] = total.get(key, 0.0) + value
    return element, fisher


def load(
    name: str, folder: Path, prompts: int = PROMPTS
) -> tuple[nn.Module, Any, list[str], TokenizedPrompts]:
    """A model in float32, its tokenizer, and `prompts` prompts that it was not trained on."""
    path = Path("srdd/model/demo") if name == "demo" else folder / name
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    if name == "demo":
        texts: Any = [prompt.plain() for prompt in builtin().prompts[:prompts]]
    else:
        from train_demo_model import read_library

        held_out = read_library(Path(sysconfig.get_paths()["stdlib"]))[1]
        rng = np.random.default_rng(0)
        long = [text for text in held_out if len(text) > 4 * TOKENS]
        texts = []
        for _ in range(prompts):
            text = long[rng.integers(len(long))]
            start = rng.integers(len(text) - 2 * TOKENS)
            texts.append(text[start : start + 2 * TOKENS])
    return model, tokenizer, texts, tokenize_for(model, tokenizer, texts, TOKENS, False)


def measure(name: str, folder: Path) -> None:
    """Measure a model in all formats for which there is no result yet."""
    missing = [spec for spec in FORMATS if not result_file(name, str(parse_spec(spec))).exists()]
    if not missing:
        return
    model, tokenizer, texts, tokenized = load(name, folder)
    structure = find_structure(model)
    specs = [parse_spec(spec) for spec in missing]
    estimate = measure_sensitivity(model, structure, tokenized, specs, samples=SAMPLES)
    element, fisher = baselines(model, structure, tokenized, specs)
    scan = scan_model(
        model,
        tokenizer,
        texts,
        formats=[str(spec) for spec in specs],
        sites=["input", "linear"],
        max_length=TOKENS,
    )
    for spec in specs:
        names = [t for t, s, operands in estimate.changes if (s, operands) == (spec, "both")]
        changes = [
            Change(tensor, estimate.layers[tensor] or 0, str(spec), "both") for tensor in names
        ]
        whole = Change(None, 0, str(spec), "both")
        sums = measure_directly(model, structure, tokenized, [whole, *changes], batch_size=16)
        local: dict[str, Any] = {}
        for record in scan.select("input", str(spec)):
            for tensor in (record.tensor, *record.shared_with):
                local[tensor] = record.metrics
        product = {r.tensor: r.metrics.sqnr_db for r in scan.select("linear", str(spec), "both")}
        result = {
            "model": name,
            "format": str(spec),
            "tensors": names,
            "tokens": estimate.tokens.tolist(),
            "estimate": [(estimate.changes[t, spec, "both"] / 2).tolist() for t in names],
            "direct": [sums[change].tolist() for change in changes],
            "whole": sums[whole].tolist(),
            "with_interactions": _joint(estimate, spec),
            "element": [element[t, str(spec)] / 2 for t in names],
            "fisher": [fisher[t, str(spec)] / 2 for t in names],
            "product": [-(product[t] or 0.0) for t in names],
            **{
                metric: [
                    (-1 if metric == "sqnr_db" else 1) * (getattr(local[t], metric) or 0.0)
                    for t in names
                ]
                for metric in LOCAL
            },
            "direct_passes": passes_of([whole, *changes], len(structure.layers)),
        }
        result_file(name, str(spec)).write_text(json.dumps(result))
        print(line(result), flush=True)


def _joint(estimate: Any, spec: FormatSpec) -> list[float]:
    sums = estimate.joint[("all", ""), spec, "both"] / 2
    return list(map(float, sums))


def result_file(name: str, spec: str) -> Path:
    return KEPT / f"{name}-{spec.replace(':', '-')}.json"


def figures(result: dict[str, Any]) -> dict[str, Any]:
    """Agreement of every score with direct KL, over the linears of one model in one format."""
    direct, ours = np.array(result["direct"]), np.array(result["estimate"])
    d, e = direct.sum(1), ours.sum(1)
    rng = np.random.default_rng(0)
    draws = [rng.integers(0, len(d), len(d)) for _ in range(500)]
    used = np.flatnonzero(np.array(result["tokens"]) > 0)
    halves = []
    for _ in range(20):
        order = rng.permutation(used)
        first, second = order[: len(used) // 2], order[len(used) // 2 :]
        halves.append(kendalltau(direct[:, first].sum(1), direct[:, second].sum(1))[0])
    ratio = e / d
    spearmen = [spearmanr(e[draw], d[draw])[0] for draw in draws]
    return {
        **{name: kendalltau(result[name], d)[0] for name in (*LOCAL, *OTHERS)},
        "ours": kendalltau(e, d)[0],
        "itself": float(np.mean(halves)),
        "spearman": spearmanr(e, d)[0],
        "spearman_interval": tuple(np.quantile(spearmen, [0.025, 0.975])),
        "ratio": float(np.median(ratio)),
        "ratio_range": tuple(np.quantile(ratio, [0.05, 0.95])),
        "element_ratio": float(np.median(np.array(result["element"]) / d)),
        "joint": float(e.sum() / np.sum(result["whole"])),
        "interactions": float(np.sum(result["with_interactions"]) / np.sum(result["whole"])),
        "kl": float(np.sum(result["whole"]) / np.sum(result["tokens"])),
    }


def line(result: dict[str, Any]) -> str:
    """A row of the table."""
    f = figures(result)
    scores = [f[name] for name in (*LOCAL, *OTHERS, "ours", "itself")]
    cells = [
        result["model"],
        f"`{result['format'].removesuffix(':floor')}`",
        str(len(result["tensors"])),
        *(f"{value:.2f}" for value in scores),
        f"{f['spearman']:.3f} ({f['spearman_interval'][0]:.2f} to {f['spearman_interval'][1]:.2f})",
        f"{f['ratio']:.2f} ({f['ratio_range'][0]:.2f} to {f['ratio_range'][1]:.2f})",
        f"{f['element_ratio']:.2f}",
        f"{1000 * f['kl']:.1f}",
        f"{f['joint']:.2f}, {f['interactions']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """All results as Markdown, with their medians."""
    results = [
        json.loads(result_file(name, str(parse_spec(spec))).read_text())
        for name in MODELS
        for spec in FORMATS
        if result_file(name, str(parse_spec(spec))).exists()
    ]
    heads = [
        *("model", "format", "linears"),
        *LOCAL.values(),
        *OTHERS.values(),
        "**ours**",
        "direct, halves",
        "ours: Spearman (95 %)",
        "ours: ratio, median (5 to 95 %)",
        "ratio, element by element",
        "KL of all, mnat",
        "joint: sum, with interactions",
    ]
    rows = [line(result) for result in results]
    every = [figures(result) for result in results]
    if every:
        medians = [
            f"{np.median([f[name] for f in every]):.2f}"
            for name in (*LOCAL, *OTHERS, "ours", "itself")
        ]
        rows.append(
            "| "
            + " | ".join(
                [
                    *("**median**", "", "", *medians),
                    f"{np.median([f['spearman'] for f in every]):.3f}",
                    f"{np.median([f['ratio'] for f in every]):.2f}",
                    f"{np.median([f['element_ratio'] for f in every]):.2f}",
                    "",
                    f"{np.median([f['joint'] for f in every]):.2f}, "
                    f"{np.median([f['interactions'] for f in every]):.2f}",
                ]
            )
            + " |"
        )
    passes = {result["model"]: result["direct_passes"] for result in results}
    listed = ", ".join(f"{name} {count:.0f}" for name, count in passes.items())
    return "\n".join(
        [
            "| " + " | ".join(heads) + " |",
            "|" + "---|" * len(heads),
            *rows,
            "",
            f"Forward passes that measuring all linears of one format directly took: {listed}.",
        ]
    )


def coverage(name: str, folder: Path, pool: int = 400, trials: int = 500) -> str:
    """How often the 95 % interval of PROMPTS prompts holds the mean of a pool of prompts.

    The pool is drawn from without replacement; its mean takes the place of the truth.
    """
    model, _, _, tokenized = load(name, folder, pool)
    structure = find_structure(model)
    layers, others = targets_of(model, structure, Selection())
    modules = [layer.module for layer in structure.layers]
    passes = Passes(model, modules, layers, others, torch.device("cpu"))
    names = dict(zip(tokenized.index, tokenized.fingerprints, strict=True))
    spec = parse_spec(FORMATS[0])
    nats: dict[str, np.ndarray] = {}
    with differentiable(model):
        for batch in make_batches(tokenized, 16):
            own = [names[number] for number in batch.index]
            positions = predicted(batch)
            drawn = uniforms(own, batch.input_ids.shape[1], SAMPLES, 0)
            scores = Scores(batch, [spec], SAMPLES, "even", own, 0)
            passes.run(
                batch, positions, drawn[:, positions.rows, positions.columns], scores.consume
            )
            for (target, _, operands), s in scores.changes.items():
                if operands == "both":
                    all_prompts = nats.setdefault(target.tensor, np.zeros(len(names)))
                    all_prompts[list(batch.index)] = s.square().mean(0).numpy() / 2
    counts = np.array([len(ids) - 1.0 for ids in tokenized.ids])
    rng = np.random.default_rng(0)
    shares = []
    for sums in nats.values():
        truth = sums.sum() / counts.sum()
        held = 0
        for _ in range(trials):
            chosen = rng.choice(len(counts), PROMPTS, replace=False)
            low, high = mean_interval(sums[chosen], counts[chosen], 0.0) or (0.0, 0.0)
            held += low <= truth <= high
        shares.append(100 * held / trials)
    return (
        f"{name}: {np.mean(shares):.1f} % (of single linears {min(shares):.0f} to "
        f"{max(shares):.0f} %) over {trials} draws of {PROMPTS} from {len(counts)} prompts"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("build/small-models"))
    parser.add_argument("--only", nargs="*", default=MODELS)
    parser.add_argument("--table", action="store_true", help="only rewrite the table")
    parser.add_argument("--coverage", help="instead, how often intervals hold the mean: a model")
    options = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if options.coverage:
        print(coverage(options.coverage, options.models))
        return
    if not options.table:
        for name in options.only:
            measure(name, options.models)
    text = TABLE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    TABLE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
