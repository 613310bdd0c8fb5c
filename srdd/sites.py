"""Sites: what of a model is measured."""

from __future__ import annotations

from collections.abc import Sequence

from srdd.errors import UsageError, unknown_name

SITES = {
    "output": "each decoder layer's output, the residual stream",
    "input": "the input of each linear, once where several linears read the same tensor",
    "weight": "the weight of each linear, blocks along the input dimension; needs no prompts",
}
"""The sites and what they mean."""


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
