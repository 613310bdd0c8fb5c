"""Scans with costs made up for recipes: layers of seven linears in three formats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from made_scans import made

from srdd.documents.context import Experts, Linear
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Changed, Sensitivity
from srdd.documents.sensitivity_figures import figure

SIZES = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (64, 16),
    "self_attn.v_proj": (64, 16),
    "self_attn.o_proj": (64, 64),
    "mlp.gate_proj": (64, 192),
    "mlp.up_proj": (64, 192),
    "mlp.down_proj": (192, 64),
}
MIXTURE = {
    "self_attn.q_proj": (64, 64),
    "self_attn.o_proj": (64, 64),
    "mlp.gate": (64, 4),
    "mlp.shared_expert.gate_proj": (64, 32),
    "mlp.shared_expert.up_proj": (64, 32),
    "mlp.shared_expert.down_proj": (32, 64),
}
STACKED = {"mlp.experts.gate_up_proj": 4 * 64 * 64, "mlp.experts.down_proj": 4 * 64 * 32}

FORMATS = {"mxfp4:floor": 1.0, "nvfp4:token": 0.7, "mxfp8_e4m3:floor": 0.02}
"""Candidates, and roughly what they cost beside mxfp4."""


def scan_with_costs(
    layers: int = 4,
    *,
    prompts: int = 20,
    noise: float = 0.3,
    formats: Sequence[str] = tuple(FORMATS),
    mixture: bool = False,
    operands: Sequence[str] = ("both",),
    seed: int = 0,
    alike: bool = False,
) -> Scan:
    """A scan whose linears' true costs are lognormal, or `alike` for the same bits, with noise."""
    rng = np.random.default_rng(seed)
    scan = made([0.1] * layers, prompts=4)
    sizes = MIXTURE if mixture else SIZES
    tokens = rng.integers(10, 60, prompts).astype(np.float64)
    changes, new = [], []
    for layer in scan.model.layers:
        linears = [
            Linear(name=f"{layer.name}.{name}", type="Linear", in_features=ins, out_features=outs)
            for name, (ins, outs) in sizes.items()
        ]
        experts = [
            Experts(name=f"{layer.name}.{name}", experts=4, size=size)
            for name, size in (STACKED if mixture else {}).items()
        ]
        new.append(layer.model_copy(update={"linears": linears, "experts": experts}))
        for each in (*linears, *experts):
            size = each.size if isinstance(each, Experts) else each.in_features * each.out_features
            cost = 1e-7 * size if alike else float(np.exp(rng.normal(-7, 1.2)))
            for name in formats:
                own = cost * FORMATS[name] * float(np.exp(0.0 if alike else rng.normal(0, 0.2)))
                drawn = own * tokens * rng.gamma(1 / noise**2, noise**2, prompts)
                changes += [
                    Changed(
                        **figure(drawn * (1.0 if which == "both" else 0.4), tokens),
                        layer=layer.index,
                        tensor=each.name,
                        format=name,
                        operands=which,  # type: ignore[arg-type]
                    )
                    for which in operands
                ]
    sensitivity = Sensitivity(
        method="estimate",
        samples=4,
        tokens=[int(count) for count in tokens],
        changes=changes,
        joint=[],
        noise=[],
        checks=[],
        not_measured={},
    )
    model = scan.model.model_copy(update={"layers": new})
    settings = scan.settings.model_copy(update={"formats": list(formats)})
    update = {"model": model, "settings": settings, "sensitivity": sensitivity}
    return Scan.model_validate(scan.model_copy(update=update).model_dump())
