"""Which strategy a scan supports, and the warnings of a configuration, each with its figure.

A scan says where a layer errs. It does not say how much noise the model bears, nor that more noise
on a layer that errs more is the right direction. What it can say is when a ranking carries too
little to act on; then uniform noise is recommended, which needs no ranking.

The limits:

- The layers hardly differ below a coefficient of variation of 20 %. Two thirds of the multipliers
  then lie between 0.8 and 1.2, within 2 dB, while sigma falls by 5 dB from one stage of the guide's
  schedule to the next: which layer gets which multiplier matters less than a fraction of a stage.
- The order is unstable below a Kendall's tau of 0.6 between halves of the prompts: then one pair
  of layers in five stands the other way round in the other half ((1 - tau) / 2).
- The set of the worst layers is unstable when it changes in more than half of the resamplings.
- Fewer than 16 prompts or 4,000 tokens rank by chance layers that differ by 1 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from srdd.documents.rin import LayerNoise, Recommendation, RinConfig
from srdd.errors import counted
from srdd.noise.costs import LEAST_ARRIVING
from srdd.noise.figures import (
    ACTS_ON,
    KL,
    PROPORTIONAL,
    Figures,
    Stability,
    agreement_of,
    default_metric,
)
from srdd.noise.targets import Targets

LEAST_SPREAD = 0.20
LEAST_TAU = 0.6
MOST_CHANGE = 0.5
FEWEST_PROMPTS = 16
FEWEST_TOKENS = 4000
MOST_OVER = 1.05
"""Noise that costs so many times what quantization does is stronger than what it prepares for."""

LEAST_COST = 1e-3
"""Noise that costs less than this share of what quantization costs does nothing."""

LEAST_LEFT = 0.1
"""So does noise of whose energy rounding leaves less than this."""

MOST_LINEAR_SIGMA = 0.001
"""Published W4A4 runs with noise on linears collapsed at 0.01 and above, within four steps."""

IN_VALIDATION = (
    "keep noise out of validation: a trainer that validates on the noisy copy reports the accuracy "
    "of another model"
)
IN_FILTERS = (
    "turn off rollout filters that drop groups with equal rewards: under noise one dropped every "
    "group, and the run stopped"
)


def recommend(
    figures: Figures, stability: Stability, strategy: str, top_k: int | None
) -> Recommendation:
    """The strategy asked for, or uniform noise where the figures carry too little.

    Arguments:
        figures: of the layers.
        stability: of their ranking, see `Figures.stability`.
        strategy: what was asked for.
        top_k: size of the set of worst layers, where the strategy picks one.
    """
    reasons = []
    if len(figures) == 1:
        reasons.append("the model has a single layer, so there is nothing to rank")
    elif figures.spread < LEAST_SPREAD:
        amplitude = "as an amplitude " if figures.metric not in PROPORTIONAL else ""
        reasons.append(
            f"the layers hardly differ: {figures.metric} {amplitude}has a coefficient of "
            f"variation of {100 * figures.spread:.0f} % over {len(figures)} layers, below "
            f"{100 * LEAST_SPREAD:.0f} %"
        )
    tau, change = stability
    if tau is not None and tau < LEAST_TAU:
        reasons.append(
            f"the order of the layers is unstable: Kendall's tau between halves of the prompts is "
            f"{tau:.2f}, below {LEAST_TAU}"
        )
    if top_k is not None and change is not None and change > MOST_CHANGE:
        reasons.append(
            f"the worst {top_k} layers are unstable: with other prompts of the same kind the set "
            f"changes in {100 * change:.0f} % of resamplings"
        )
    return Recommendation(strategy="uniform" if reasons else strategy, reasons=reasons)


def summary(config: RinConfig) -> str:
    """What was asked for and what is recommended, in a sentence that never mixes up the two."""
    name = config.strategy if config.control is None else f"{config.control} of {config.strategy}"
    advice = config.recommendation
    if not advice.reasons:
        if config.label == "uniform":
            return "strategy uniform: it needs no ranking; run it against no noise"
        return (
            f"strategy {name}: the layers differ enough for their ranking to matter; run it "
            "against uniform noise and its controls"
        )
    because = "; ".join(advice.reasons)
    if config.label == "uniform":
        return f"strategy uniform, which is also recommended: {because}"
    return f"strategy {name}; recommended instead: {advice.strategy}, because {because}"


MIXTURE = (
    "the model is a mixture: a router that chooses other experts is no small change, and the noise "
    "costs more than predicted (on the one measured, 1.2 to 3 times as much); measure it with "
    "`srdd eval MODEL --rin FILE`"
)
"""docs/noise.md has the measurement."""


def about_costs(config: RinConfig, tensors: Iterable[str]) -> Iterator[str]:
    """Noise that costs more than quantization, that rounding swallows, or that costs nothing.

    Of a mixture, also that the prediction is too low.
    """
    kl = config.kl
    assert kl is not None
    if any(".experts" in tensor for tensor in tensors):
        yield MIXTURE
    schedule = max((tier.schedule for tier in config.tiers), key=lambda each: each.sigma_start)
    arriving = kl.arriving[1]
    if arriving is not None and arriving < LEAST_ARRIVING:
        yield (
            f"rounding to the weights' type lets {100 * arriving:.0f} % of the noise through at "
            "the first noisy stage: raise sigma_start, or keep these weights in float32"
        )
    if kl.first > MOST_OVER * kl.quantization > 0:
        sigma = schedule.sigma_start * math.sqrt(kl.quantization / kl.first)
        yield (
            f"the noise costs {kl.first:.3g} nats a token at its first noisy stage, "
            f"{kl.first / kl.quantization:.2g} times what quantizing all linears costs "
            f"({kl.quantization:.3g}): match_quantization makes them equal, with a sigma of "
            f"about {sigma:.2g}"
        )
    idle = 0
    for cost, share in zip(kl.stages[:0:-1], kl.arriving[:0:-1], strict=True):
        if cost >= LEAST_COST * kl.quantization and (share is None or share >= LEAST_LEFT):
            break
        idle += 1
    if 0 < idle < len(kl.stages) - 1:
        count = len(kl.stages)
        share = kl.arriving[-1]
        swallowed = share is not None and share < LEAST_LEFT
        reason = (
            f"rounding leaves {100 * share:.0f} % of the noise at the end"
            if swallowed and share is not None
            else f"they cost less than {100 * LEAST_COST:g} % of what quantization costs"
        )
        sigma = schedule.sigmas[count - 1 - idle]
        which = "the last stage does" if idle == 1 else f"the last {idle} of {count} stages do"
        yield f"{which} nothing: {reason}; end at a sigma_end of {sigma:.2g}"


def warnings_of(
    figures: Figures, stability: Stability, targets: Targets, config: RinConfig
) -> Iterator[str]:
    """The warnings of a configuration, besides what its noise costs and why not to rank layers.

    Arguments:
        figures: of the layers.
        stability: of their ranking.
        targets: what gets noise.
        config: with the noise of each layer.
    """
    yield from _about_noise(config.layers, targets, costs_known=config.kl is not None)
    yield from _about_scan(figures, stability, targets)
    if config.strategy != "uniform":
        yield from _about_ranking(figures)
    yield from _about_targets(targets)
    for text in figures.scan.warnings:
        yield f"from the scan: {text}"
    yield IN_VALIDATION
    yield IN_FILTERS


def _about_noise(
    layers: Sequence[LayerNoise], targets: Targets, *, costs_known: bool
) -> Iterator[str]:
    """Noise that is stronger than the quantization error or than the signal, or too strong.

    Where costs are known, they say more than the size of the quantization error does.
    """
    strong = [
        (entry.signal_to_noise_db, entry.sqnr_db, entry.layer)
        for entry in layers
        if entry.signal_to_noise_db is not None
        and entry.sqnr_db is not None
        and entry.signal_to_noise_db < (0.0 if costs_known else entry.sqnr_db)
    ]
    if strong:
        ratio, sqnr, layer = min(strong)
        yield (
            f"in {counted(len(strong), 'layer')} the noise is stronger than the "
            f"{'signal' if costs_known else 'quantization error'}: in layer {layer} {ratio:.1f} dB "
            f"of signal to noise against an SQNR of {sqnr:.1f} dB"
            + ("; the noise is stronger than the signal" if ratio < 0 and not costs_known else "")
        )
    sigma = max(entry.sigma for entry in layers)
    if targets.layer_type == "linear" and sigma > MOST_LINEAR_SIGMA:
        yield (
            f"sigma {sigma:g} on linears: published W4A4 runs collapsed within 4 steps at 0.01 and "
            f"0.05, and were stable at {MOST_LINEAR_SIGMA:g}"
        )


def _about_scan(figures: Figures, stability: Stability, targets: Targets) -> Iterator[str]:
    scan = figures.scan
    prompts, tokens = scan.calibration.prompts, scan.calibration.tokens
    if prompts is None or tokens is None:
        yield "the scan does not say how many tokens it saw"
    elif prompts < FEWEST_PROMPTS or tokens < FEWEST_TOKENS:
        yield (
            f"few tokens: the scan saw {tokens:,} in {counted(prompts, 'prompt')}, and to rank "
            f"layers that differ by 1 % takes {FEWEST_TOKENS:,} in {FEWEST_PROMPTS} prompts or more"
        )
    if len(figures) > 1 and stability[0] is None:
        yield "the stability of the ranking is unknown: the scan keeps no replicates"
    site, best = figures.records[0].site, ACTS_ON[targets.layer_type]
    if site != best and not figures.costs:
        measured = best in scan.settings.sites
        advice = f"use site {best} to rank by that"
        yield (
            f"layers are ranked at site {site}, and noise on {targets.layer_type} acts on site "
            f"{best}: " + (advice if measured else f"scan site {best} to rank by that")
        )


def _about_ranking(figures: Figures) -> Iterator[str]:
    """Whether what quantizing a layer costs would rank the layers differently."""
    scan, record = figures.scan, figures.records[0]
    if figures.costs or scan.sensitivity is None:
        return
    spec = f"{record.format}:{record.scale_rule}"
    if default_metric(scan, spec) != KL:
        yield (
            f"layers are ranked by {figures.metric}: what quantizing single tensors costs was not "
            "estimated for all layers, or was found off"
        )
        return
    tau = agreement_of(figures, KL)
    if tau is not None and tau < LEAST_TAU:
        yield (
            f"{figures.metric} ranks the layers differently from what quantizing them costs "
            f"(Kendall's tau {tau:.2f}): rank by metric kl"
        )


def _about_targets(targets: Targets) -> Iterator[str]:
    unknown = sum(t.gain_rms is None for layer in targets.of_layer for t in layer)
    if not targets.known:
        yield (
            "the scan names no modules: norms are found by layer index, every layer counts as one "
            "weight in the noise energy, and gains count as 1"
        )
    elif targets.layer_type == "linear":
        yield "the scan holds no weights of linears: their noise has no figure in dB"
    elif unknown:
        yield f"the gain of {counted(unknown, 'norm')} is unknown and counts as 1"
    if targets.routers:
        yield (
            f"{counted(len(targets.routers), 'router')} get no noise, which would choose other "
            f"experts: {', '.join(targets.routers[:3])}"
            + (", ..." if len(targets.routers) > 3 else "")
        )
