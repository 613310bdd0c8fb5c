"""One call from a Scan to a RinConfig: checks what is asked for, chooses layers, builds tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from srdd.documents.identity import fingerprint
from srdd.documents.rin import Parameters, RinConfig
from srdd.documents.scan import Scan
from srdd.errors import UsageError, unknown_name
from srdd.noise.figures import default_site, figures_of
from srdd.noise.recommendation import recommend, warnings_of
from srdd.noise.strategies import CONTROLS, OPTIONS, STRATEGIES, TOP_K, uniform, usable_schedule
from srdd.noise.targets import ALWAYS_EXCLUDED, targets_of
from srdd.noise.tiers import build, energy_of, with_energy_of


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
    given = {
        "top_k": top_k,
        "top_fraction": top_fraction,
        "direction": direction,
        "cap": cap,
        "clip": clip,
        "zones": zones,
        "tiers": tiers,
    }
    for owner, names in OPTIONS.items():
        for name in names:
            if given[name] is not None and owner != strategy:
                raise UsageError(
                    f"{name} belongs to strategy {owner}, not to {strategy}",
                    f"leave it out, or use strategy {owner}",
                )
    options = OPTIONS[strategy] | {n: value for n, value in given.items() if value is not None}
    schedule = usable_schedule(sigma_start, sigma_end, num_stages)
    exclusions = list(dict.fromkeys((*ALWAYS_EXCLUDED, *exclude)))
    targets = targets_of(scan, layer_type, exclusions)
    site = site or default_site(scan, layer_type)
    figures = figures_of(scan, site=site, format=format, metric=metric)
    baseline = uniform(figures, schedule)
    chosen = original = STRATEGIES[strategy](figures, schedule, **options)
    top = len(chosen[0].layers) if strategy == "targeted" else None
    if control is not None:
        if len(chosen) == len(set(chosen[0].multipliers)) == 1:
            raise UsageError(
                f"{control} would change nothing: every layer gets the same noise",
                "make the control from a strategy that tells layers apart",
            )
        chosen = CONTROLS[control](chosen, seed)
    if equal_energy or control is not None:
        chosen = with_energy_of(baseline if equal_energy else original, chosen, targets)
    built = build(chosen, figures, targets)
    stability = figures.stability(top or min(TOP_K, len(figures)))
    return RinConfig.model_validate(
        {
            "strategy": strategy,
            "control": control,
            "source": {
                "scan": fingerprint(scan),
                "model": scan.model.name,
                "model_fingerprint": scan.model.fingerprint,
                "layers": len(figures),
                "site": site,
                "format": figures.records[0].format,
                "scale_rule": figures.records[0].scale_rule,
                "metric": metric,
            },
            "parameters": {
                **schedule.model_dump(),
                **{name: options.get(name) for name in given if name in Parameters.model_fields},
                "top_k": top,
                "seed": seed if control == "shuffled" else None,
                "equal_energy": equal_energy,
            },
            "layer_type": layer_type,
            "exclude_patterns": exclusions,
            "excluded": [*targets.excluded, *targets.routers],
            "tiers": built,
            "energy": energy_of(chosen, baseline, targets),
            "recommendation": recommend(figures, stability, control or strategy, top),
            "warnings": list(warnings_of(figures, stability, targets, built)),
        }
    )
