"""Sites: what of a model is measured, and which metrics have a meaning there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from srdd.errors import UsageError, unknown_name

SITES = {
    "output": "each decoder layer's output, the residual stream",
    "input": "the input of each linear, once where several linears read the same tensor",
    "weight": "the weight of each linear, blocks along the input dimension; needs no prompts",
    "linear": "each linear's output when its weight, its input or both are quantized (W4A4)",
}
"""The sites and what they mean."""

OPERANDS: tuple[Literal["weight", "input", "both"], ...] = ("weight", "input", "both")
"""What can be quantized at site `linear`."""

_COMPUTED = "outputs of a product are not rounded, so none is flushed or clipped"
UNDEFINED = {
    "linear": {
        "deadzone": _COMPUTED,
        "saturation": _COMPUTED,
        "clipping_share": _COMPUTED,
        "relative_error": "outputs near zero would rule it; relative_l1 is a ratio of sums",
    }
}
"""site -> metrics that have no meaning there, each with the reason."""


def ranked_by(site: str) -> tuple[str, str]:
    """The metrics that layers are ranked by at a site."""
    return ("relative_l1" if site == "linear" else "relative_error"), "sqnr_db"


def check_sites(sites: Sequence[str]) -> tuple[str, ...]:
    """The sites, each once, in the order given.

    Raises:
        UsageError: one is unknown, or there is none.
    """
    if not sites:
        raise UsageError("no site was named", f"choose from: {', '.join(SITES)}")
    for site in sites:
        if site not in SITES:
            raise unknown_name("site", site, SITES)
    return tuple(dict.fromkeys(sites))


def needs_prompts(sites: Sequence[str]) -> bool:
    """Whether measuring `sites` takes forward passes, and so prompts and a tokenizer."""
    return any(site != "weight" for site in sites)
