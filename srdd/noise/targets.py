"""Which modules of a layer get noise, as the scan names them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from srdd.documents.rin import NoisyModule
from srdd.documents.scan import Layer, Scan
from srdd.errors import UsageError, unknown_name
from srdd.model.kinds import kind_of

LAYER_TYPES = ("rmsnorm", "linear")
"""What gets noise; the first is the default."""

ALWAYS_EXCLUDED = ("lm_head", "embed_tokens", "lora_")
"""As in the guide: output head, embedding and adapters never get noise."""


@dataclass(frozen=True)
class Target:
    """A weight that can get noise.

    Attributes:
        name: the module's; of stacked experts, the parameter's.
        size: number of weights.
        gain_rms: of a norm; None where it is unknown, and for a linear.
        owner: the first module that has this weight; another than `name` where it is tied.
    """

    name: str
    size: int
    gain_rms: float | None
    owner: str


@dataclass(frozen=True)
class Targets:
    """The modules of every layer that get noise.

    Attributes:
        layer_type: of LAYER_TYPES.
        known: whether the scan names modules at all; a scan by the prototype does not.
        of_layer: (layers,) the modules, without the excluded ones.
        excluded: names of modules that a pattern left out.
        routers: names of routers, which get no noise.
    """

    layer_type: str
    known: bool
    of_layer: tuple[tuple[Target, ...], ...]
    excluded: tuple[str, ...]
    routers: tuple[str, ...]

    def sizes(self, layers: Collection[int]) -> list[int]:
        """How many weights each layer of the model adds to noise on `layers`, (layers,).

        A weight that several modules share gets noise once, and counts for the first of them. A
        layer counts as one weight where the scan names no modules.
        """
        if not self.known:
            return [int(layer in layers) for layer in range(len(self.of_layer))]
        seen: set[str] = set()
        sizes = [0] * len(self.of_layer)
        for layer, targets in enumerate(self.of_layer):
            for target in targets if layer in layers else ():
                if target.owner not in seen:
                    seen.add(target.owner)
                    sizes[layer] += target.size
        return sizes

    def gain(self, target: Target | None) -> float | None:
        """The gain that noise is compared with: a norm without a known one counts as 1."""
        if self.layer_type == "linear":
            return None
        return 1.0 if target is None or target.gain_rms is None else target.gain_rms

    def noisy(self, layer: int, sigma: float) -> list[NoisyModule]:
        """The modules of a layer under noise."""
        return [
            NoisyModule(
                name=target.name,
                size=target.size,
                gain_rms=target.gain_rms,
                signal_to_noise_db=ratio_db(self.gain(target), sigma),
            )
            for target in self.of_layer[layer]
        ]

    def signal_to_noise_db(self, layer: int, sigma: float) -> float | None:
        """Gain over noise of a layer, pooled over its modules' weights, dB."""
        if not self.known:
            return ratio_db(self.gain(None), sigma)
        gains = [(self.gain(target), target.size) for target in self.of_layer[layer]]
        weights = sum(size for _, size in gains)
        if not weights or any(gain is None for gain, _ in gains):
            return None
        power = sum(gain * gain * size for gain, size in gains if gain is not None)
        return ratio_db(math.sqrt(power / weights), sigma)


def ratio_db(gain: float | None, sigma: float) -> float | None:
    """20 log10(gain / sigma), dB: sigma 0.05 on a gain of 1 is 26 dB. None without a gain."""
    return None if not gain else 20 * math.log10(gain / sigma)


def targets_of(scan: Scan, layer_type: str, exclude: Sequence[str]) -> Targets:
    """The modules that get noise, by layer.

    Linears include the stacked experts of a mixture and leave out its routers, whose noise would
    choose other experts.

    Arguments:
        scan: names the modules.
        layer_type: of LAYER_TYPES.
        exclude: a module whose name contains one of these is left out.

    Raises:
        UsageError: unknown layer type, an empty pattern, or no layer has such a module.
    """
    if layer_type not in LAYER_TYPES:
        raise unknown_name("layer type", layer_type, LAYER_TYPES)
    if "" in exclude:
        raise UsageError("an empty pattern excludes every module", "leave it out")
    known = scan.model.source != "prototype"
    excluded: list[str] = []
    routers: list[str] = []
    of_layer = []
    for layer in scan.model.layers:
        kept = []
        for target in _candidates(layer, layer_type):
            if any(pattern in target.name for pattern in exclude):
                excluded.append(target.name)
            elif layer_type == "linear" and kind_of(target.name) == "router":
                routers.append(target.name)
            else:
                kept.append(target)
        of_layer.append(tuple(kept))
    if known and not any(of_layer):
        raise _nothing(scan, layer_type, excluded)
    return Targets(layer_type, known, tuple(of_layer), tuple(excluded), tuple(routers))


def _candidates(layer: Layer, layer_type: str) -> list[Target]:
    if layer_type == "rmsnorm":
        norms = [norm for norm in layer.norms if norm.kind == "rmsnorm"]
        return [Target(n.name, n.size, n.gain_rms, n.tied_to or n.name) for n in norms]
    linears = [
        Target(each.name, each.in_features * each.out_features, None, each.tied_to or each.name)
        for each in layer.linears
    ]
    return linears + [Target(each.name, each.size, None, each.name) for each in layer.experts]


def _nothing(scan: Scan, layer_type: str, excluded: list[str]) -> UsageError:
    if excluded:
        return UsageError(
            f"the exclusions leave no {layer_type} in any layer", "exclude fewer modules"
        )
    kinds = sorted({norm.kind for layer in scan.model.layers for norm in layer.norms})
    if layer_type == "rmsnorm" and kinds:
        return UsageError(
            f"the model has no RMSNorm in its layers; its norms are: {', '.join(kinds)}",
            "trainers put noise on RMSNorm only; for linears add --layer-type linear",
        )
    return UsageError(
        f"the scan names no {layer_type} in any layer",
        f"choose from: {', '.join(kind for kind in LAYER_TYPES if kind != layer_type)}",
    )
