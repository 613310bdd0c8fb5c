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

from collections.abc import Iterator, Sequence

from srdd.documents.rin import LayerNoise, Recommendation, RinConfig, Tier
from srdd.errors import counted
from srdd.noise.figures import ACTS_ON, Figures, Stability
from srdd.noise.targets import Targets

LEAST_SPREAD = 0.20
LEAST_TAU = 0.6
MOST_CHANGE = 0.5
FEWEST_PROMPTS = 16
FEWEST_TOKENS = 4000
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
        amplitude = "as an amplitude " if figures.metric.endswith("_db") else ""
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


def warnings_of(
    figures: Figures, stability: Stability, targets: Targets, tiers: Sequence[Tier]
) -> Iterator[str]:
    """The warnings of a configuration, besides the recommendation's reasons.

    Arguments:
        figures: of the layers.
        stability: of their ranking.
        targets: what gets noise.
        tiers: the layers with their noise.
    """
    yield from _about_noise([entry for tier in tiers for entry in tier.layers], targets)
    yield from _about_scan(figures, stability, targets)
    yield from _about_targets(targets)
    for text in figures.scan.warnings:
        yield f"from the scan: {text}"
    yield IN_VALIDATION
    yield IN_FILTERS


def _about_noise(layers: Sequence[LayerNoise], targets: Targets) -> Iterator[str]:
    """Noise that is stronger than the quantization error or than the signal, or too strong."""
    strong = [
        (entry.signal_to_noise_db, entry.sqnr_db, entry.layer)
        for entry in layers
        if entry.signal_to_noise_db is not None
        and entry.sqnr_db is not None
        and entry.signal_to_noise_db < entry.sqnr_db
    ]
    if strong:
        ratio, sqnr, layer = min(strong)
        yield (
            f"in {counted(len(strong), 'layer')} the noise is stronger than the quantization "
            f"error: in layer {layer} {ratio:.1f} dB of signal to noise against an SQNR of "
            f"{sqnr:.1f} dB" + ("; the noise is stronger than the signal" if ratio < 0 else "")
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
            f"few tokens: the scan saw {tokens:,} in {counted(prompts, 'prompt')}, and fewer than "
            f"{FEWEST_TOKENS:,} in {FEWEST_PROMPTS} hardly rank layers that differ by 1 %"
        )
    if len(figures) > 1 and stability[0] is None:
        yield "the stability of the ranking is unknown: the scan keeps no replicates"
    site, best = figures.records[0].site, ACTS_ON[targets.layer_type]
    if site != best:
        measured = best in scan.settings.sites
        advice = f"suggest with --site {best}"
        yield (
            f"layers are ranked at site {site}, and noise on {targets.layer_type} acts on site "
            f"{best}: " + (advice if measured else f"scan with --site {best} to rank by that")
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
