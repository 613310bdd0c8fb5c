"""What speaks against a configuration, each with its figure.

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

from collections.abc import Sequence

from srdd.documents.rin import Recommendation, Tier
from srdd.documents.scan import Scan
from srdd.errors import counted
from srdd.noise.figures import Figures, Stability
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
    if len(figures.layers) == 1:
        reasons.append("the model has a single layer, so there is nothing to rank")
    elif figures.spread < LEAST_SPREAD:
        reasons.append(
            f"the layers hardly differ: {figures.metric} {_amplitude(figures)}has a coefficient of "
            f"variation of {100 * figures.spread:.0f} % over {len(figures.layers)} layers, below "
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


def _amplitude(figures: Figures) -> str:
    return "as an amplitude " if figures.metric in ("sqnr_db", "vs_floor_db") else ""


def warnings_of(
    scan: Scan,
    figures: Figures,
    stability: Stability,
    targets: Targets,
    tiers: Sequence[Tier],
) -> list[str]:
    """What to mind about a configuration, besides the recommendation's reasons.

    Arguments:
        scan: where the figures come from.
        figures: of the layers.
        stability: of their ranking.
        targets: what gets noise.
        tiers: the layers with their noise.
    """
    found = [
        *_about_noise(tiers),
        *_about_scan(scan, figures, stability),
        *_about_targets(scan, figures, targets),
    ]
    sigma = max(entry.sigma for tier in tiers for entry in tier.layers)
    if targets.layer_type == "linear" and sigma > MOST_LINEAR_SIGMA:
        found.append(
            f"sigma {sigma:g} on linears: published W4A4 runs collapsed within 4 steps at 0.01 and "
            f"0.05, and were stable at {MOST_LINEAR_SIGMA:g}"
        )
    found += [f"from the scan: {text}" for text in scan.warnings]
    return [*found, IN_VALIDATION, IN_FILTERS]


def _about_noise(tiers: Sequence[Tier]) -> list[str]:
    """Layers whose noise is stronger than what they quantize away, or than their signal."""
    layers = [entry for tier in tiers for entry in tier.layers]
    noisy = [
        (entry.signal_to_noise_db, entry.sqnr_db, entry.layer)
        for entry in layers
        if entry.signal_to_noise_db is not None
        and entry.sqnr_db is not None
        and entry.signal_to_noise_db < entry.sqnr_db
    ]
    if not noisy:
        return []
    ratio, sqnr, layer = min(noisy)
    return [
        f"in {counted(len(noisy), 'layer')} the noise is stronger than the quantization error: in "
        f"layer {layer} {ratio:.1f} dB of signal to noise against an SQNR of {sqnr:.1f} dB"
        + ("; the noise is stronger than the signal" if ratio < 0 else "")
    ]


def _about_scan(scan: Scan, figures: Figures, stability: Stability) -> list[str]:
    found = []
    prompts, tokens = scan.calibration.prompts, scan.calibration.tokens
    if prompts is None or tokens is None:
        found.append("the scan does not say how many tokens it saw")
    elif prompts < FEWEST_PROMPTS or tokens < FEWEST_TOKENS:
        found.append(
            f"few tokens: the scan saw {tokens:,} in {prompts} prompts, and fewer than "
            f"{FEWEST_TOKENS:,} in {FEWEST_PROMPTS} hardly rank layers that differ by 1 %"
        )
    if len(figures.layers) > 1 and stability[0] is None:
        found.append("nothing says how stable the ranking is: the scan keeps no replicates")
    return found


def _about_targets(scan: Scan, figures: Figures, targets: Targets) -> list[str]:
    found = []
    acts_on = "weight" if targets.layer_type == "linear" else "input"
    if figures.site != acts_on:
        where = "the weights of linears" if acts_on == "weight" else "what the linears read"
        found.append(
            f"the scan measured site {figures.site}, and noise on {targets.layer_type} acts on "
            f"{where} (site {acts_on})"
            + (f"; it holds that, too: --site {acts_on}" if acts_on in scan.settings.sites else "")
        )
    if not targets.known:
        found.append(
            "the scan names no modules: norms are found by layer index, every layer counts as one "
            "weight in the noise energy, and gains count as 1"
        )
    elif targets.layer_type == "linear":
        found.append("the scan holds no weights of linears: their noise has no figure in dB")
    else:
        unknown = sum(t.gain_rms is None for layer in targets.of_layer for t in layer)
        if unknown:
            found.append(f"the gain of {unknown} norms is unknown and counts as 1")
    return found
