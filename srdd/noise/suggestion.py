"""One call from a Scan to a RinConfig: checks what is asked for, chooses layers, builds tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srdd.documents.rin import RinConfig, unusable_reason
from srdd.documents.scan import Scan
from srdd.errors import UsageError, unknown_name
from srdd.noise import strategies
from srdd.noise.figures import Figures, default_site, figures_of, fingerprint
from srdd.noise.recommendation import recommend, warnings_of
from srdd.noise.strategies import CONTROLS, STRATEGIES, Sigmas, TierNoise
from srdd.noise.targets import ALWAYS_EXCLUDED, targets_of
from srdd.noise.tiers import build, energy_of, equal_energy_scale
from srdd.numerics.formats import check_seed

TOP_K = 10
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-12, 1e6
"""Beyond these, noise is lost in any weight's rounding, or the weight in the noise."""

_OWNERS = {
    "top_k": "targeted",
    "top_fraction": "targeted",
    "direction": "variable",
    "cap": "variable",
    "clip": "variable",
    "zones": "zone",
    "tiers": "zone",
}
"""Options of one strategy, which would silently do nothing in another."""


def suggest(
    scan: Scan,
    strategy: str = "variable",
    *,
    control: str | None = None,
    site: str | None = None,
    format: str | None = None,
    metric: str = "relative_error",
    top_k: int | None = None,
    top_fraction: float | None = None,
    direction: str | None = None,
    cap: float | None = None,
    clip: tuple[float, float] | None = None,
    zones: str | None = None,
    tiers: Mapping[str, tuple[float, float] | None] | None = None,
    equal_energy: bool = False,
    sigma_start: float = 0.05,
    sigma_end: float = 0.0005,
    num_stages: int = 10,
    layer_type: str = "rmsnorm",
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> RinConfig:
    """A noise configuration that follows from a scan.

    It promises no accuracy: whether noise helps, and whether more of it belongs where the error is
    larger, only training runs against the controls can tell.

    Arguments:
        scan: from `srdd.load_scan` or `srdd.scan_model`.
        strategy: of STRATEGIES; a control's name stands for that control of `variable`.
        control: `inverse` or `shuffled`, made from the strategy at its noise energy.
        site: which of the scan's sites; if left out, the one that the noise acts on (`input` for
            norms, `weight` for linears) where the scan has it, else `input` or `output`.
        format: which of the scan's formats; may be left out where it holds one.
        metric: of METRICS, what layers are compared by; see `srdd.noise.figures`.
        top_k: targeted: how many layers. 10 if left out, or half of them in a model of at most 10.
        top_fraction: targeted, instead of top_k: which share of the layers, in (0, 1].
        direction: variable: `proportional` or `inverse`; see `srdd.noise.strategies.variable`.
        cap: variable: the largest multiplier.
        clip: variable: the lowest and highest multiplier.
        zones: zone: `depth`, `breaks` or ranges; see `srdd.noise.strategies.zone`.
        tiers: zone: sigma_start and sigma_end by name of tier, or None for no noise.
        equal_energy: scale all sigmas so that the mean noise energy over the run is that of uniform
            noise on the given schedule.
        sigma_start: sigma at the first noisy stage, for multiplier 1.
        sigma_end: sigma at the last stage.
        num_stages: how many stages the run is cut into, at least 3; the first is clean.
        layer_type: `rmsnorm` or `linear`; linears include stacked experts and leave out routers.
        exclude: leave out modules whose name contains one of these, besides ALWAYS_EXCLUDED.
        seed: of `shuffled`.

    Raises:
        UsageError: an unknown name, an option that belongs to another strategy, a schedule that
            trainers do not do as written, zones that cannot be, or nothing to choose from.
        InputError: the scan lacks a layer or a figure.
    """
    if strategy in CONTROLS and control is None:
        strategy, control = "variable", strategy
    if strategy not in STRATEGIES:
        raise unknown_name("strategy", strategy, (*STRATEGIES, *CONTROLS))
    if control is not None and control not in CONTROLS:
        raise unknown_name("control", control, CONTROLS)
    given = (top_k, top_fraction, direction, cap, clip, zones, tiers)
    for (name, owner), value in zip(_OWNERS.items(), given, strict=True):
        if value is not None and strategy != owner:
            raise UsageError(
                f"{name} belongs to strategy {owner}, not to {strategy}",
                f"leave it out, or use strategy {owner}",
            )
    sigmas = checked_sigmas(sigma_start, sigma_end, num_stages)
    check_seed(seed)
    exclusions = list(dict.fromkeys((*ALWAYS_EXCLUDED, *exclude)))
    targets = targets_of(scan, layer_type, exclusions)
    figures = figures_of(
        scan, site=site or default_site(scan, layer_type), format=format, metric=metric
    )
    count = len(figures)
    asked: dict[str, Any] = {
        "top_k": _top_k(count, top_k, top_fraction) if strategy == "targeted" else None,
        "direction": (direction or "proportional") if strategy == "variable" else None,
        "cap": cap,
        "clip": clip,
        "zones": (zones or "depth") if strategy == "zone" else None,
        "tiers": None if tiers is None else dict(tiers),
    }
    baseline = strategies.uniform(figures, sigmas)
    chosen = wanted = _choose(strategy, figures, sigmas, asked)
    if control is not None:
        chosen = strategies.controlled(chosen, control, seed)
    scale = 1.0
    if equal_energy or control is not None:
        wanted = baseline if equal_energy else wanted
        scale = equal_energy_scale(chosen, wanted, targets, num_stages)
    built = build(
        chosen, scan=scan, figures=figures, targets=targets, num_stages=num_stages, scale=scale
    )
    stability = figures.stability(asked["top_k"] or min(TOP_K, count))
    return RinConfig.model_validate(
        {
            "strategy": strategy,
            "control": control,
            "source": {
                "scan": fingerprint(scan),
                "model": scan.model.name,
                "model_fingerprint": scan.model.fingerprint,
                "layers": count,
                "site": figures.site,
                "format": figures.format,
                "scale_rule": figures.scale_rule,
                "metric": metric,
            },
            "parameters": {
                "sigma_start": sigma_start,
                "sigma_end": sigma_end,
                "num_stages": num_stages,
                **asked,
                "seed": seed if control == "shuffled" else None,
                "equal_energy": equal_energy,
            },
            "layer_type": layer_type,
            "exclude_patterns": exclusions,
            "excluded": [*targets.excluded, *targets.routers],
            "tiers": built,
            "energy": energy_of(chosen, baseline, targets, num_stages, scale),
            "recommendation": recommend(figures, stability, control or strategy, asked["top_k"]),
            "warnings": warnings_of(scan, figures, stability, targets, built),
        }
    )


def checked_sigmas(start: float, end: float, num_stages: int) -> Sigmas:
    """The two sigmas of a schedule, if trainers do it as written.

    Raises:
        UsageError: they do not; see `srdd.documents.rin.unusable_reason`.
    """
    if problem := unusable_reason(start, end, num_stages):
        raise UsageError(*problem)
    if not SMALLEST_SIGMA <= end <= start <= LARGEST_SIGMA:
        raise UsageError(
            f"sigma goes from {start:g} to {end:g}",
            f"stay between {SMALLEST_SIGMA:g} and {LARGEST_SIGMA:g}; the guide uses 0.05 to 0.0005",
        )
    return start, end


def _top_k(layers: int, top_k: int | None, fraction: float | None) -> int:
    if top_k is not None and fraction is not None:
        raise UsageError("top_k and top_fraction are both given", "give one of them")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise UsageError(f"top_fraction is {fraction:g}", "give a share above 0, at most 1")
        return max(1, round(fraction * layers))
    if top_k is not None:
        return top_k
    return TOP_K if layers > TOP_K else max(1, layers // 2)


def _choose(
    strategy: str, figures: Figures, sigmas: Sigmas, asked: Mapping[str, Any]
) -> list[TierNoise]:
    if strategy == "targeted":
        return strategies.targeted(figures, sigmas, asked["top_k"])
    if strategy == "variable":
        options = {name: asked[name] for name in ("direction", "cap", "clip")}
        return strategies.variable(figures, sigmas, **options)
    if strategy == "zone":
        own = {
            name: None if pair is None else checked_sigmas(pair[0], pair[1], 3)
            for name, pair in (asked["tiers"] or {}).items()
        }
        return strategies.zone(figures, sigmas, asked["zones"], own)
    return strategies.uniform(figures, sigmas)
