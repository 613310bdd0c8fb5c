"""Mismatch of two policies on sampled tokens, as additive sums: what importance weights make of it.

A rollout policy wrote the tokens, a training policy scores them. For a token with log-probabilities
log pi_train and log pi_rollout, and for a response of n tokens,

    d = log pi_train - log pi_rollout        rho = exp(d)        w = exp(sum of d over the response)

Sums over tokens (TOKEN_FIELDS) become sums over responses (FIELDS), and every figure of
srdd.numerics.mismatch_metrics is a function of the latter. So responses merge by adding, memory
does not grow with their length, and leaving one response out gives the jackknife's intervals.

Exponents are cut to +-BOUND nats before they are taken, as verl does (SAFETY_BOUND in its
rollout_corr_helper.py), except in k3, which verl does not cut either. Importance weights are cut at
CAP where a name says `capped`: the default of verl (rollout_is_threshold) and slime (tis_clip).

Where both distributions are at hand, `expected_` fields are sums over the whole vocabulary: what a
token drawn from the rollout policy gives on average, without the chance of the draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from srdd.errors import UsageError

BOUND = 20.0
"""Nats at which log-ratios are cut before they become weights."""

CAP = 2.0
"""Importance weights are cut here where trainers truncate them."""

CLIP = (0.8, 1.2)
"""Ratios beyond which a policy-gradient loss clips, by PPO's usual epsilon of 0.2."""

SAMPLED_FIELDS = (
    "tokens",
    "k1",
    "k3",
    "k3_reversed",
    "js",
    "rho",
    "rho_squared",
    "capped",
    "capped_squared",
    "above_cap",
    "below_cap",
    "apart",
    "apart_squared",
    "apart_exp",
    "away",
    "below",
    "above",
    "own_below",
    "own_above",
)
"""Sums over tokens that need the log-probabilities of the sampled tokens alone."""

EXPECTED_FIELDS = (
    "kl",
    "kl_reversed",
    "expected_chi2",
    "expected_apart_exp",
    "expected_outside",
    "expected_own_outside",
)
"""Sums over tokens of what both distributions give on average, in the order of `distributions`."""

TOKEN_FIELDS = (*SAMPLED_FIELDS, *EXPECTED_FIELDS)

RESPONSE_FIELDS = (
    "responses",
    "mean_apart",
    "mean_rho",
    "mean_away",
    "mean_above_cap",
    "log_ppl",
    "log_ppl_abs",
    "ppl_ratio",
    "weight",
    "weight_squared",
    "capped_weight_tokens",
    "capped_weight_squared_tokens",
)
"""Sums over responses of functions of the whole response."""

FIELDS = (*TOKEN_FIELDS, *RESPONSE_FIELDS)
INDEX = {name: place for place, name in enumerate(FIELDS)}

Values = NDArray[np.float64]


def field(sums: Values, name: str) -> Values:
    """One field of sums (..., TOKEN_FIELDS or FIELDS) as an array (...)."""
    view: Values = sums[..., INDEX[name]]
    return view


def token_sums(
    train: Values,
    rollout: Values,
    own_clip: tuple[float, float] | None = None,
    expected: Values | None = None,
) -> Values:
    """What each token adds to the sums.

    Arguments:
        train, rollout: log-probabilities of the sampled tokens, nats, (tokens,).
        own_clip: a second range of ratios beside CLIP.
        expected: (tokens, EXPECTED_FIELDS); zeros where only the sampled tokens' are known.

    Returns:
        (tokens, TOKEN_FIELDS).
    """
    d = np.asarray(train, dtype=np.float64) - np.asarray(rollout, dtype=np.float64)
    safe = np.clip(d, -BOUND, BOUND)
    rho, capped = np.exp(safe), np.exp(np.minimum(safe, np.log(CAP)))
    low, high = own_clip or (0.0, np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        k3, k3_reversed = np.expm1(d) - d, np.expm1(-d) + d
    # Log-ratios to the mixture of both, (pi_train + pi_rollout) / 2.
    to_train, to_rollout = (-np.logaddexp(0.0, sign * d) + np.log(2.0) for sign in (-1.0, 1.0))
    js = 0.5 * (np.expm1(to_train) - to_train) + 0.5 * (np.expm1(to_rollout) - to_rollout)
    columns = {
        "tokens": np.ones_like(d),
        "k1": -d,
        "k3": k3,
        "k3_reversed": k3_reversed,
        "js": js,
        "rho": rho,
        "rho_squared": rho**2,
        "capped": capped,
        "capped_squared": capped**2,
        "above_cap": rho > CAP,
        "below_cap": rho < 1 / CAP,
        "apart": np.abs(d),
        "apart_squared": d**2,
        "apart_exp": np.exp(np.abs(safe)),
        "away": np.abs(rho - 1),
        "below": rho < CLIP[0],
        "above": rho > CLIP[1],
        "own_below": rho < low,
        "own_above": rho > high,
    }
    sampled = np.stack([columns[name] for name in SAMPLED_FIELDS], axis=-1).astype(np.float64)
    if expected is None:
        expected = np.zeros((len(d), len(EXPECTED_FIELDS)))
    return np.concatenate([sampled, expected], axis=-1)


def response_sums(sums: Values) -> Values:
    """Sums over the tokens of each response -> with what the whole response adds.

    Arguments:
        sums: (responses, TOKEN_FIELDS), each of at least one token.

    Returns:
        (responses, FIELDS), to be added up over responses.
    """
    tokens = field(sums, "tokens")
    total = -field(sums, "k1")
    mean = total / tokens
    weight = np.exp(np.clip(total, -BOUND, BOUND))
    capped = np.minimum(weight, CAP)
    with np.errstate(over="ignore"):
        ppl_ratio = np.exp(-mean)
    columns = {
        "responses": np.ones_like(tokens),
        "mean_apart": field(sums, "apart") / tokens,
        "mean_rho": field(sums, "rho") / tokens,
        "mean_away": field(sums, "away") / tokens,
        "mean_above_cap": field(sums, "above_cap") / tokens,
        "log_ppl": -mean,
        "log_ppl_abs": np.abs(mean),
        "ppl_ratio": ppl_ratio,
        "weight": weight,
        "weight_squared": weight**2,
        "capped_weight_tokens": capped * tokens,
        "capped_weight_squared_tokens": capped**2 * tokens,
    }
    added = np.stack([columns[name] for name in RESPONSE_FIELDS], axis=-1)
    return np.concatenate([sums, added], axis=-1)


def check_clip(clip: tuple[float, float] | None) -> None:
    """Make sure that a range of ratios holds 1.

    Raises:
        UsageError: it does not.
    """
    if clip is not None and not 0 <= clip[0] < 1 < clip[1] < float("inf"):
        raise UsageError(
            f"the clipping range {clip[0]:g} to {clip[1]:g} does not hold the ratio 1",
            "give a lower end from 0 to below 1 and an upper end above 1, such as 0.8:1.28",
        )
