"""One call from a Scan to a RinConfig: checks what is asked for, chooses layers, builds tiers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from srdd.documents.identity import fingerprint
from srdd.documents.rin import Parameters, RinConfig, Schedule
from srdd.documents.scan import Scan
from srdd.errors import UsageError, unknown_name
from srdd.noise.costs import noise_costs, predicted, quantization_kl
from srdd.noise.figures import KL, default_site, figures_of
from srdd.noise.recommendation import about_costs, recommend, warnings_of
from srdd.noise.strategies import (
    BY_COST,
    CONTROLS,
    OPTIONS,
    SIGMA_END,
    SIGMA_START,
    STRATEGIES,
    TOP_K,
    TierNoise,
    uniform,
    usable_schedule,
)
from srdd.noise.targets import ALWAYS_EXCLUDED, targets_of
from srdd.noise.tiers import build, energy_of, scaled, with_energy_of


def suggest(
    scan: Scan,
    strategy: str = "variable",
    *,
    control: str | None = None,
    site: str | None = None,
    format: str | None = None,
    metric: str | None = None,
    top_k: int | None = None,
    top_fraction: float | None = None,
    direction: str | None = None,
    cap: float | None = None,
    clip: tuple[float, float] | None = None,
    zones: str | None = None,
    tiers: Mapping[str, tuple[float, float] | None] | None = None,
    equal_energy: bool = False,
    equal_kl: bool = False,
    target_kl: float | None = None,
    match_quantization: float | None = None,
    sigma_start: float | None = None,
    sigma_end: float | None = None,
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
        metric: of METRICS, what `targeted`, `variable` and `zone` rank layers by. If left out, `kl`
            where the scan has it and it was not found off, else `relative_error`; see
            `srdd.noise.figures`.
        top_k: targeted: how many layers. 10 if left out, or half of them in a model of at most 10.
        top_fraction: targeted, instead of top_k: which share of the layers, in (0, 1].
        direction: variable: `proportional` or `inverse`; see `srdd.noise.strategies.variable`.
        cap: variable: the largest multiplier.
        clip: variable: the lowest and highest multiplier.
        zones: zone: `depth`, `breaks` or ranges; see `srdd.noise.strategies.zone`.
        tiers: zone: sigma_start and sigma_end by name of tier, or None for no noise.
        equal_energy: scale all sigmas so that the mean noise energy over the run is that of uniform
            noise on the given schedule.
        equal_kl: scale all sigmas so that the mean cost over the run, as the scan predicts it, is
            that of uniform noise on the given schedule.
        target_kl: what the first noisy stage is to cost, nats a token above 0; sets sigma_start.
            With equal_energy or equal_kl it is what uniform noise costs.
        match_quantization: the same as a share, above 0, of what quantizing all linears costs.
        sigma_start: sigma at the first noisy stage, for multiplier 1; 0.05 if left out. `matched`
            then has match_quantization 1 instead.
        sigma_end: sigma at the last stage; if left out, 0.0005, or a hundredth of a sigma_start
            that follows from target_kl or match_quantization.
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
                    f"`{name}` belongs to strategy {owner}, not to {strategy}",
                    f"leave it out, or use `strategy={owner}`",
                )
    options = OPTIONS[strategy] | {n: value for n, value in given.items() if value is not None}
    level = _level(strategy, sigma_start, target_kl, match_quantization, equal_energy, equal_kl)
    if level and tiers is not None:
        raise UsageError(f"`tiers` and `{level[0]}` both set sigma", "give one of them")
    exclusions = list(dict.fromkeys((*ALWAYS_EXCLUDED, *exclude)))
    targets = targets_of(scan, layer_type, exclusions)
    site = site or default_site(scan, layer_type)
    costs = None
    if strategy in BY_COST:
        metric = KL
    figures = figures_of(scan, site=site, format=format, metric=metric)
    if level or equal_kl or strategy in BY_COST:
        costs = noise_costs(scan, targets)
    if costs and strategy == "matched":
        options["noise"] = costs.figures(scan, figures.records)
    if costs and strategy == "balanced":
        figures = costs.figures(scan, figures.records)

    def tiers_at(start: float, end: float) -> tuple[Schedule, list[TierNoise], list[TierNoise]]:
        """The schedule, the strategy's tiers and, at the same energy, those of the control."""
        schedule = usable_schedule(start, end, num_stages)
        original = STRATEGIES[strategy](figures, schedule, **options)
        if control is None:
            return schedule, original, original
        if len(original) == len(set(original[0].multipliers)) == 1:
            raise UsageError(
                f"{control} would change nothing: every layer gets the same noise",
                "make the control from a strategy that tells layers apart",
            )
        changed = CONTROLS[control](original, seed)
        return schedule, original, with_energy_of(original, changed, targets)

    start = SIGMA_START if sigma_start is None else sigma_start
    end = SIGMA_END if sigma_end is None else sigma_end
    if level:
        assert costs is not None
        schedule, _, chosen = tiers_at(SIGMA_START, SIGMA_END)
        if equal_energy or equal_kl:
            chosen = uniform(figures, schedule)
        name, value = level
        if name == "match_quantization":
            value *= quantization_kl(scan, scan.spec(format))["quantization"]
        start *= costs.scale_for(chosen, value, name)
        start, end = (float(f"{sigma:.4g}") for sigma in (start, sigma_end or start / 100))
    schedule, original, chosen = tiers_at(start, end)
    baseline = uniform(figures, schedule)
    top = len(original[0].layers) if strategy == "targeted" else None
    if equal_energy:
        chosen = with_energy_of(baseline, chosen, targets)
    if equal_kl:
        assert costs is not None
        mean = costs.mean_kl(baseline)
        chosen = scaled(chosen, costs.scale_for(chosen, mean, "equal_kl", mean=True))
    built = build(chosen, figures, targets)
    stability = figures.stability(top or min(TOP_K, len(figures)))
    config = RinConfig.model_validate(
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
                "metric": figures.metric,
            },
            "parameters": {
                **schedule.model_dump(),
                **{name: options.get(name) for name in given if name in Parameters.model_fields},
                "top_k": top,
                "seed": seed if control == "shuffled" else None,
                "equal_energy": equal_energy,
                "target_kl": target_kl,
                "match_quantization": level[1] if level and level[0] != "target_kl" else None,
                "equal_kl": equal_kl,
            },
            "layer_type": layer_type,
            "exclude_patterns": exclusions,
            "excluded": [*targets.excluded, *targets.routers],
            "tiers": built,
            "energy": energy_of(chosen, baseline, targets),
            "recommendation": recommend(figures, stability, control or strategy, top),
            "warnings": [],
        }
    )
    warnings: list[str] = []
    if scan.sensitivity is not None and targets.known:
        try:
            config = config.model_copy(update={"kl": predicted(scan, config)})
            tensors = [change.tensor for change in scan.sensitivity.changes]
            warnings += about_costs(config, tensors)
        except UsageError as error:
            warnings.append(f"what the noise costs is unknown: {error.message}")
    warnings += warnings_of(figures, stability, targets, config)
    return config.model_copy(update={"warnings": warnings})


def _level(
    strategy: str,
    sigma_start: float | None,
    target_kl: float | None,
    match_quantization: float | None,
    equal_energy: bool,
    equal_kl: bool,
) -> tuple[str, float] | None:
    """The option that says what noise is to cost, with its value; None where sigma is given.

    Raises:
        UsageError: two options say how strong the noise is, or one has a value that cannot be.
    """
    options = {
        "sigma_start": sigma_start,
        "target_kl": target_kl,
        "match_quantization": match_quantization,
    }
    given = [(name, value) for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise UsageError(
            f"`{given[0][0]}` and `{given[1][0]}` both say how strong the noise is",
            "give one of them",
        )
    if equal_energy and equal_kl:
        raise UsageError("`equal_energy` and `equal_kl` are both given", "give one of them")
    if not given and strategy == "matched" and not (equal_energy or equal_kl):
        given = [("match_quantization", 1.0)]
    if not given or given[0][0] == "sigma_start":
        return None
    name, value = given[0]
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"`{name}` is {value:g}", "give a number above 0")
    return name, value
