"""How often nominal 95 % intervals include the population's value.

A population is made of the sums of 6,000 prompts of 2 to 40 tokens of a tiny random model, measured
once: site output and site input in two formats, and the loss and KL of the model in W4A4 (not of
`heavy`, whose vocabulary of 50,000 would make that take most of the time). A trial draws prompts
from it, deals them into replicates by a random number, as a hash does, and asks whether each
method's interval includes the value of the whole population.

    light     GPT-2 with random weights
    heavy     GPT-2, each embedding times a log-normal factor with sigma 1.6: few tokens carry most
    massive   Qwen2, weights with heavy tails, one token in fifty with a 30 times larger embedding

Cells are coverage in per cent and, after x, the median width over that of the percentile bootstrap.

    python -m benchmarks.coverage [--trials N] [--methods NAME ...] [--prompts N ...]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks import machine
from srdd.documents.records import REPLICATES
from srdd.measurement import forward
from srdd.numerics.confidence import Error, leave_one_out
from srdd.numerics.sums import FIELDS, INDEX

POPULATIONS = ("light", "heavy", "massive")
PROMPTS, LONGEST, VOCABULARY = 6000, 40, {"light": 1000, "heavy": 50_000, "massive": 1000}
SPECS = ("mxfp4:floor", "mxfp4:even")
BATCH = 50
DRAWS = 1000
FOLDER = Path("build/coverage")

Values = NDArray[np.float64]


def _model(kind: str) -> tuple[object, dict[str, tuple[object, str]]]:
    """A model, and its points: name -> module and `output` or `input`."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    words = VOCABULARY[kind]
    if kind == "massive":
        config = Qwen2Config(
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=words,
        )
        model = Qwen2ForCausalLM(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(torch.exp(0.8 * torch.randn_like(parameter)))
            model.model.embed_tokens.weight[: words // 50].mul_(30)
        layers = [
            (layer, layer.self_attn.q_proj, layer.mlp.down_proj) for layer in model.model.layers
        ]
    else:
        ids = {"bos_token_id": 0, "eos_token_id": 0}
        config = GPT2Config(n_embd=64, n_layer=3, n_head=4, vocab_size=words, n_positions=64, **ids)
        model = GPT2LMHeadModel(config).eval()
        if kind == "heavy":
            with torch.no_grad():
                model.transformer.wte.weight.mul_(torch.exp(1.6 * torch.randn(words, 1)))
        layers = [(layer, layer.attn.c_attn, layer.mlp.c_proj) for layer in model.transformer.h]
    points: dict[str, tuple[object, str]] = {}
    for number, (layer, first, last) in enumerate(layers):
        points[f"{number} output"] = (layer, "output")
        points[f"{number} input of q"] = (first, "input")
        points[f"{number} input of down"] = (last, "input")
    return model, points


def measure(kind: str) -> dict[str, Values]:
    """Sums by prompt of a population, from its file if it was measured before.

    Returns:
        `sums` (prompts, points, specs, fields), `nll` (prompts, 3) of srdd.simulation.predictions,
        NaN where it was not measured, `predicted` (prompts,).
    """
    path = FOLDER / f"{kind}.npz"
    if path.exists():
        with np.load(path) as found:
            return dict(found)
    import torch

    from srdd.numerics.formats import parse_spec
    from srdd.numerics.kernels import row_sums
    from srdd.prompts.batches import Batch
    from srdd.simulation import predictions
    from srdd.simulation.simulator import simulate

    model, points = _model(kind)
    specs = [parse_spec(spec) for spec in SPECS]
    random = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, LONGEST + 1, (PROMPTS,), generator=random)
    ids = torch.randint(0, VOCABULARY[kind], (PROMPTS, LONGEST), generator=random)
    sums = np.zeros((PROMPTS, len(points), len(specs), len(FIELDS)))
    nll = np.full((PROMPTS, 3), np.nan)
    batch: Batch
    on = True

    def hook(place: int, site: str) -> Callable[..., None]:
        def measured(module: object, given: tuple[object, ...], output: object) -> None:
            if not on:
                return
            x = given[0] if site == "input" else output
            x = x[0] if isinstance(x, tuple) else x
            counts = batch.attention_mask.bool()
            prompt = torch.arange(len(counts))[:, None].expand_as(counts)[counts]
            for each, spec in enumerate(specs):
                total = torch.zeros(len(counts), len(FIELDS), dtype=torch.float64)
                total.index_add_(0, prompt, row_sums(x[counts], spec))
                sums[list(batch.index), place, each] = total.numpy()

        return measured

    for place, (module, site) in enumerate(points.values()):
        module.register_forward_hook(hook(place, site))
    with torch.no_grad(), simulate(model, "mxfp4", "mxfp4") as simulation:
        for start in range(0, PROMPTS, BATCH):
            part = slice(start, start + BATCH)
            mask = (torch.arange(LONGEST) < lengths[part, None]).long()
            batch = Batch(tuple(range(start, start + BATCH)), ids[part], mask)
            if kind == "heavy":
                with simulation.paused():
                    model.base_model(input_ids=batch.input_ids, attention_mask=mask)
                continue
            with simulation.paused():
                on = True
                plain = forward.logits_of(model, batch, torch.device("cpu"))
            on = False
            logits = forward.logits_of(model, batch, torch.device("cpu"))
            nll[part] = predictions.sums(plain, logits, batch).numpy()
    result = {"sums": sums, "nll": nll, "predicted": (lengths - 1).double().numpy()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez(path, **result)
    return result


def figures(population: dict[str, Values]) -> tuple[Values, list[str]]:
    """Numerators and denominators (prompts, figures, 2), and the group that each figure is of."""
    columns, groups = [], []

    def add(group: str, numerator: Values, denominator: Values) -> None:
        columns.append(np.stack([numerator, denominator], axis=1))
        groups.append(group)

    for point in range(population["sums"].shape[1]):
        own = population["sums"][:, point, 0].T
        site = "in" if point % 3 else "out"
        add(f"SQNR {site}", own[INDEX["x2"]], own[INDEX["e2"]])
        add(f"rel {site}", own[INDEX["relative"]], own[INDEX["nonzero"]])
    _, loss, kl = population["nll"].T
    if np.isfinite(kl).all():
        add("KL", kl, population["predicted"])
        add("loss", loss, population["predicted"])
    return np.stack(columns, axis=1), groups


def statistic(sums: Values, groups: list[str]) -> Values:
    """(..., figures, 2) -> (..., figures): decibels of an SQNR, else the ratio."""
    ratio = sums[..., 0] / sums[..., 1]
    is_sqnr = np.array([group.startswith("SQNR") for group in groups])
    return np.where(is_sqnr, 10 * np.log10(ratio), ratio)


def percentile(drawn: Values, tail: float | Values) -> Values:
    """(draws, figures) -> (figures, 2)."""
    tails = np.broadcast_to(tail, drawn.shape[1:])
    return np.array([np.quantile(d, [t, 1 - t]) for d, t in zip(drawn.T, tails, strict=True)])


def intervals(sums: Values, groups: list[str], rng: np.random.Generator) -> dict[str, Values]:
    """Of replicates (replicates, figures, 2): method -> (figures, 2)."""
    count = len(sums)
    value = statistic(sums.sum(axis=0), groups)
    without = statistic(leave_one_out(sums), groups)
    error = Error.of(without)
    weights = rng.multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(float)
    drawn = statistic(np.tensordot(weights, sums, axes=1), groups)
    t = float(stats.t.ppf(0.025, count - 1))
    expanded = float(stats.norm.cdf(math.sqrt(count / (count - 1)) * t))
    influence = without.mean(axis=0) - without
    skew = (influence**3).sum(axis=0) / (6 * (influence**2).sum(axis=0) ** 1.5)
    bias = stats.norm.ppf(np.clip((drawn < value).mean(axis=0), 1 / DRAWS, 1 - 1 / DRAWS))
    z = bias + stats.norm.ppf([0.025, 0.975])[:, None]
    tails = stats.norm.cdf(bias + z / (1 - skew * z))
    bca = [np.quantile(d, ends) for d, ends in zip(drawn.T, tails.T, strict=True)]
    reach = np.quantile(np.abs(_studentized(sums, weights, drawn, value, groups)), 0.95, axis=0)
    size = _linear_error(sums, groups)
    return {
        "percentile": percentile(drawn, 0.025),
        "expanded": percentile(drawn, expanded),
        "BCa": np.array(bca),
        "bootstrap-t": np.stack([value - reach * size, value + reach * size], axis=1),
        "jackknife-t": np.stack([value + t * error.size, value - t * error.size], axis=1),
        "srdd": error.around(value),
    }


def _linear_error(sums: Values, groups: list[str]) -> Values:
    """Standard error of the statistic, linearised: (..., replicates, figures, 2) -> (figures,)."""
    total = sums.sum(axis=0)
    terms = sums[..., 0] / total[..., 0] - sums[..., 1] / total[..., 1]
    return _slope(total, groups) * np.sqrt((terms**2).sum(axis=0))


def _slope(total: Values, groups: list[str]) -> Values:
    """Of the statistic by the logarithm of the ratio."""
    is_sqnr = np.array([group.startswith("SQNR") for group in groups])
    return np.where(is_sqnr, 10 / math.log(10), total[..., 0] / total[..., 1])


def _studentized(
    sums: Values, weights: Values, drawn: Values, value: Values, groups: list[str]
) -> Values:
    """(draws, figures): how many of its own standard errors each draw is from the value."""
    total = np.tensordot(weights, sums, axes=1)
    squares = [
        np.tensordot(weights, sums[..., a] * sums[..., b], axes=1) / total[..., a] / total[..., b]
        for a, b in ((0, 0), (1, 1), (0, 1))
    ]
    variance = np.maximum(squares[0] + squares[1] - 2 * squares[2], 1e-30)
    return (drawn - value) / (_slope(total, groups) * np.sqrt(variance))


def _replicates(values: Values, rng: np.random.Generator) -> Values:
    """Sums of the occupied replicates, prompts (prompts, ...) dealt at random."""
    at = rng.integers(0, REPLICATES, len(values))
    sums = np.zeros((REPLICATES, *values.shape[1:]))
    np.add.at(sums, at, values)
    return sums[np.bincount(at, minlength=REPLICATES) > 0]


def single(kind: str, sizes: list[int], trials: int, wanted: list[str]) -> None:
    """Coverage of the figures of one scan or evaluation."""
    values, groups = figures(measure(kind))
    truth = statistic(values.sum(axis=0), groups)
    names = list(dict.fromkeys(groups))
    places = {name: [n for n, group in enumerate(groups) if group == name] for name in names}
    print(f"\n{kind:8} {'':12}" + "".join(f"{name:>14}" for name in names))
    for size in sizes:
        rng = np.random.default_rng([size, 0])
        ends: dict[str, list[Values]] = {}
        for _ in range(trials):
            replicates = _replicates(values[rng.integers(0, len(values), size)], rng)
            if len(replicates) > 1:
                for method, pair in intervals(replicates, groups, rng).items():
                    ends.setdefault(method, []).append(pair)
        widths = {method: np.ptp(np.array(each), axis=2) for method, each in ends.items()}
        for method in wanted:
            low, high = np.moveaxis(np.array(ends[method]), 2, 0)
            covered = 100 * ((low <= truth) & (truth <= high))
            wider = widths[method] / widths["percentile"]
            cells = [
                f"{covered[:, at].mean():8.1f} x{np.median(wider[:, at]):4.2f}"
                for at in places.values()
            ]
            print(f"{size:8} {method:12}" + "".join(cells), flush=True)


def pairs(kind: str, sizes: list[int], trials: int) -> None:
    """How often `compare` misses the true difference: between formats, and where there is none."""
    sums = measure(kind)["sums"]
    points = range(sums.shape[1])
    groups = [f"SQNR {'in' if point % 3 else 'out'}" for point in points]
    x2, e2 = INDEX["x2"], INDEX["e2"]
    both = [sums[:, :, spec][..., [x2, e2]] for spec in range(2)]
    true = [statistic(each.sum(axis=0), groups) for each in both]
    outputs = np.array([not point % 3 for point in points])
    print(f"\n{kind:8} {'missed, %':22} {'SQNR out':>10} {'SQNR in':>10}")
    for size in sizes:
        rng = np.random.default_rng([size, 1])
        missed: dict[str, list[NDArray[np.bool_]]] = {"paired": [], "independent": []}
        for _ in range(trials):
            pick, other = rng.integers(0, PROMPTS, (2, size))
            together = _replicates(np.stack([each[pick] for each in both], axis=1), rng)
            apart = [_replicates(both[0][each], rng) for each in (pick, other)]
            if min(map(len, (together, *apart))) < 2:
                continue
            first, second = (statistic(leave_one_out(together[:, n]), groups) for n in (0, 1))
            old, new = (statistic(together[:, n].sum(axis=0), groups) for n in (0, 1))
            ends = Error.of(second - first).around(new - old) - (true[1] - true[0])[:, None]
            missed["paired"].append((ends[:, 0] > 0) | (ends[:, 1] < 0))
            errors = [Error.of(statistic(leave_one_out(each), groups)) for each in apart]
            values = [statistic(each.sum(axis=0), groups) for each in apart]
            ends = errors[1].minus(errors[0]).around(values[1] - values[0])
            missed["independent"].append((ends[:, 0] > 0) | (ends[:, 1] < 0))
        for name, each in missed.items():
            rates = [100 * np.array(each)[:, which].mean() for which in (outputs, ~outputs)]
            print(f"{size:8} {name:22} {rates[0]:10.1f} {rates[1]:10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--prompts", type=int, nargs="+", default=[8, 16, 32, 64, 79, 200])
    parser.add_argument(
        "--methods",
        nargs="+",
        default=["percentile", "expanded", "BCa", "bootstrap-t", "jackknife-t", "srdd"],
    )
    parser.add_argument("--populations", nargs="+", default=POPULATIONS, choices=POPULATIONS)
    given = parser.parse_args()
    print(machine.describe())
    for kind in given.populations:
        single(kind, given.prompts, given.trials, given.methods)
        pairs(kind, given.prompts, given.trials)


if __name__ == "__main__":
    sys.exit(main())
