"""Which modules of a layer get noise, as the scan names them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
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
        known: whether the scan names modules at all; a scan by the prototype does not, and each of
            its layers counts as a module of one weight.
        of_layer: (layers,) the modules, without the excluded ones.
        excluded: names of modules that a pattern left out.
        routers: names of routers, which get no noise.
    """

    layer_type: str
    known: bool
    of_layer: tuple[tuple[Target, ...], ...]
    excluded: tuple[str, ...]
    routers: tuple[str, ...]

    def sizes(self, layers: set[int]) -> list[int]:
        """How many weights each layer of the model adds to noise on `layers`, (layers,).

        A weight that several modules share gets noise once, and counts for the first of them.
        """
        seen: set[str] = set()
        sizes = [0] * len(self.of_layer)
        for layer in sorted(layers):
            for target in self.of_layer[layer]:
                sizes[layer] += target.size if target.owner not in seen else 0
                seen.add(target.owner)
        return sizes

    def noisy(self, layer: int, sigma: float) -> list[NoisyModule]:
        """The modules of a layer under noise; none where the scan names none."""
        return [
            NoisyModule(
                name=target.name,
                size=target.size,
                gain_rms=target.gain_rms,
                signal_to_noise_db=self.signal_to_noise_db([target], sigma),
            )
            for target in (self.of_layer[layer] if self.known else ())
        ]

    def check_layer(self, layer: int) -> None:
        """Make sure that a layer has something that can get noise.

        Raises:
            UsageError: it has not.
        """
        if not self.of_layer[layer]:
            raise UsageError(
                f"layer {layer} is to get noise and has no {self.layer_type} that may",
                "exclude fewer modules, or choose other layers",
            )

    def signal_to_noise_db(self, targets: Sequence[Target], sigma: float) -> float | None:
        """Gain over noise, pooled over the weights of `targets`, dB: 26 for 0.05 on a gain of 1.

        A norm without a known gain counts as 1. None for linears, and for a gain of 0.
        """
        if self.layer_type == "linear":
            return None
        gains = [1.0 if target.gain_rms is None else target.gain_rms for target in targets]
        sizes = [target.size for target in targets]
        power = sum(gain * gain * size for gain, size in zip(gains, sizes, strict=True))
        return 20 * math.log10(math.sqrt(power / sum(sizes)) / sigma) if power else None


def targets_of(scan: Scan, layer_type: str, exclude: Sequence[str]) -> Targets:
    """The modules that get noise, by layer.

    Linears include the stacked experts of a mixture and leave out its routers, whose noise would
    choose other experts.

    Arguments:
        scan: names the modules.
        layer_type: of LAYER_TYPES.
        exclude: a module whose name contains one of these is left out.

    Raises:
        UsageError: unknown layer type, an empty pattern, or no weight in any layer can get noise.
    """
    if layer_type not in LAYER_TYPES:
        raise unknown_name("layer type", layer_type, LAYER_TYPES)
    if "" in exclude:
        raise UsageError("an empty pattern excludes every module", "leave it out")
    layers = scan.model.layers
    if scan.model.source == "prototype":
        of_layer = tuple((Target("", 1, None, f"layer {layer.index}"),) for layer in layers)
        return Targets(layer_type, False, of_layer, (), ())
    candidates = [[t for t in _candidates(layer, layer_type) if t.size] for layer in layers]
    names = [target.name for targets in candidates for target in targets]
    excluded = [name for name in names if any(pattern in name for pattern in exclude)]
    routers = []
    if layer_type == "linear":
        routers = [n for n in names if kind_of(n) == "router" and n not in excluded]
    quiet = {*excluded, *routers}
    kept = tuple(tuple(t for t in targets if t.name not in quiet) for targets in candidates)
    if not any(kept):
        raise _nothing(scan, layer_type, excluded)
    return Targets(layer_type, True, kept, tuple(excluded), tuple(routers))


def _candidates(layer: Layer, layer_type: str) -> Iterator[Target]:
    if layer_type == "rmsnorm":
        for norm in layer.norms:
            if norm.kind == "rmsnorm":
                yield Target(norm.name, norm.size, norm.gain_rms, norm.tied_to or norm.name)
        return
    for each in layer.linears:
        size = each.in_features * each.out_features
        yield Target(each.name, size, None, each.tied_to or each.name)
    for stack in layer.experts:
        yield Target(stack.name, stack.size, None, stack.name)


def _nothing(scan: Scan, layer_type: str, excluded: Sequence[str]) -> UsageError:
    if excluded:
        return UsageError(
            f"the exclusions leave no {layer_type} in any layer", "exclude fewer modules"
        )
    kinds = sorted({norm.kind for layer in scan.model.layers for norm in layer.norms})
    has = f"; its norms are: {', '.join(kinds)}" if kinds else ""
    return UsageError(
        f"the scan names no {layer_type} in any layer{has}",
        "trainers put noise on RMSNorm; for linears use `layer_type=linear`",
    )
