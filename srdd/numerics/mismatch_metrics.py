"""Figures of the mismatch between a rollout policy and a training policy, each declared once.

Every figure is a function of the sums of srdd.numerics.mismatch, so pools and leave-one-out values
are exact. Definitions are those that trainers log, under the names in `theirs`:

    verl      verl/trainer/ppo/rollout_corr_helper.py: compute_offpolicy_metrics, compute_is_metrics
    NeMo-RL   nemo_rl/algorithms/loss_functions.py: ClippedPGLossFn; docs/guides/grpo.md, Metrics
    slime     slime/backends/megatron_utils/loss.py: policy_loss_function, vanilla_tis_function

verl and NeMo-RL take means over all tokens, slime the mean over responses of each response's mean;
verl's figures of a whole response are means over responses. The levels in `level` are where
trainers' documentation, tests or users raise an alert; none of them says that a run fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.numerics.confidence import FEWEST_REPLICATES, Error, leave_one_out
from srdd.numerics.metrics import Metric
from srdd.numerics.mismatch import CAP, CLIP, Values, field

VERL = "verl, rollout_corr_helper.py"
NEMO = "NeMo-RL, ClippedPGLossFn and docs/guides/grpo.md"
SLIME = "slime, policy_loss_function and vanilla_tis_function"
KISH = "Kish, Survey Sampling (1965)"
SCHULMAN = "Schulman, Approximating KL Divergence (2020)"
HERE = "srdd.numerics.mismatch"


@dataclass(frozen=True)
class MismatchMetric(Metric):
    """A figure of the mismatch.

    Attributes:
        theirs: what trainers call it, with the trainer's name.
        level: where an alert is usual (above it; below it where higher is better), and whose it is.
        expected: whether it is an average over the whole vocabulary.
    """

    theirs: tuple[str, ...] = ()
    level: tuple[float, str] | None = None
    expected: bool = False

    @property
    def least(self) -> float | None:
        """The smallest value it can have; estimates of a divergence may be negative."""
        return None if self.name in SIGNED else 0.0


SIGNED = ("k1", "chi2_token", "chi2_seq", "log_ppl_diff")
"""Figures that a sample can make negative."""


def _over_tokens(name: str, minus: float = 0.0) -> Callable[[Values], Values]:
    def compute(sums: Values) -> Values:
        mean: Values = field(sums, name) / field(sums, "tokens") - minus
        return mean

    return compute


def _over_responses(name: str, minus: float = 0.0) -> Callable[[Values], Values]:
    def compute(sums: Values) -> Values:
        mean: Values = field(sums, name) / field(sums, "responses") - minus
        return mean

    return compute


def _outside(below: str, above: str) -> Callable[[Values], Values]:
    def compute(sums: Values) -> Values:
        share: Values = (field(sums, below) + field(sums, above)) / field(sums, "tokens")
        return share

    return compute


def _effective(first: str, second: str, count: str) -> Callable[[Values], Values]:
    """(sum of w)^2 / (count * sum of w^2)."""

    def compute(sums: Values) -> Values:
        share: Values = field(sums, first) ** 2 / (field(sums, count) * field(sums, second))
        return share

    return compute


def _deviation(sums: Values) -> Values:
    tokens = field(sums, "tokens")
    mean = field(sums, "capped") / tokens
    deviation: Values = np.sqrt(np.maximum(field(sums, "capped_squared") / tokens - mean**2, 0.0))
    return deviation


def _metric(
    name: str,
    title: str,
    compute: Callable[[Values], NDArray[np.float64]],
    summary: str,
    formula: str,
    reading: str,
    source: str,
    *,
    range: str = "0 and up; lower is better",
    pitfalls: str = "",
    unit: str = "",
    digits: int = 4,
    higher_is_better: bool | None = False,
    largest: float | None = None,
    theirs: tuple[str, ...] = (),
    level: tuple[float, str] | None = None,
    expected: bool = False,
) -> MismatchMetric:
    return MismatchMetric(
        name=name,
        title=title,
        label=title,
        unit=unit,
        scale=100.0 if unit == "%" else 1.0,
        digits=digits,
        higher_is_better=higher_is_better,
        compute=compute,
        priority=0,
        threshold=None,
        largest=largest,
        summary=summary,
        formula=formula,
        range=range,
        reading=reading,
        pitfalls=pitfalls,
        source=source,
        theirs=theirs,
        level=level,
        expected=expected,
    )


_LARGE = (
    "few responses with large weights carry the mean: with long responses it is one response's, "
    "and its interval too narrow. Weights are cut at e^20."
)
_EXACT = (
    "Over the whole vocabulary at each position, so free of the chance of sampling; the contexts "
    "are those of the text."
)


def _declared() -> Iterator[MismatchMetric]:
    yield _metric(
        "kl_reversed",
        "KL rollout to train",
        _over_tokens("kl_reversed"),
        f"KL divergence of the training policy from the rollout policy. {_EXACT}",
        "mean over tokens of sum over v of q(v) log(q(v) / p(v)), q the rollout policy's "
        "distribution, p the training policy's",
        "what k1 and k3 estimate from the sampled tokens when the rollout policy wrote them",
        HERE,
        unit="nats",
        expected=True,
    )
    yield _metric(
        "k1",
        "k1",
        _over_tokens("k1"),
        "The plain estimate of the KL divergence from the sampled tokens.",
        "mean over tokens of log pi_rollout - log pi_train",
        "compare it with k3, which estimates the same with less noise; far apart, the text was not "
        "sampled from the rollout policy",
        f"{VERL}; {SCHULMAN}",
        range="any number; about 0 is good",
        unit="nats",
        theirs=("rollout_corr/kl",),
        level=(0.1, "the alert in verl's documentation"),
    )
    yield _metric(
        "k3",
        "k3",
        _over_tokens("k3"),
        "The estimate of the KL divergence from the sampled tokens that people watch: never "
        "negative, and with little noise.",
        "mean over tokens of rho - 1 - log rho, rho = pi_train / pi_rollout",
        "slime's authors report 1e-5 to 1e-3 for dense models in 16 bits and 1e-3 to 1e-1 for "
        "mixtures of experts",
        f"{VERL}; {NEMO}; {SCHULMAN}",
        unit="nats",
        theirs=("rollout_corr/k3_kl", "k3_kl", "gen_kl_error"),
        level=(1e-3, "the upper end of what slime's authors report for dense models in 16 bits"),
    )
    yield _metric(
        "k3_reversed",
        "k3 reversed",
        _over_tokens("k3_reversed"),
        "k3 with both policies exchanged.",
        "mean over tokens of 1 / rho - 1 + log rho",
        "to second order as large as k3; much larger where the training policy nearly rules out "
        "sampled tokens",
        NEMO,
        unit="nats",
        theirs=("policy_kl_error",),
    )
    yield _metric(
        "js_divergence",
        "JS divergence",
        _over_tokens("js"),
        "The Jensen-Shannon divergence as NeMo-RL estimates it from the sampled tokens.",
        "mean over tokens of the halved k3 terms of each policy against the mixture of both",
        "about a quarter of k3 where policies are close",
        NEMO,
        unit="nats",
        theirs=("js_divergence_error",),
    )
    yield _metric(
        "chi2_token",
        "chi2 token",
        _over_tokens("rho_squared", 1.0),
        "The chi-square divergence from the weights of the sampled tokens: the variance of "
        "importance weights.",
        "mean over tokens of rho^2, minus 1",
        "0.1: token weights have a standard deviation of about a third",
        VERL,
        range="0 and up, though a sample can give less; lower is better",
        theirs=("rollout_corr/chi2_token",),
        level=(1.0, "the alert in verl's documentation"),
    )
    yield _metric(
        "expected_chi2",
        "chi2 exact",
        _over_tokens("expected_chi2"),
        f"The chi-square divergence of the training policy from the rollout policy. {_EXACT}",
        "mean over tokens of sum over v of p(v)^2 / q(v), minus 1",
        "about twice the KL divergence where policies are close; far more where the rollout policy "
        "all but rules out what the training policy would say",
        HERE,
        level=(1.0, "the alert in verl's documentation"),
        expected=True,
    )
    yield _metric(
        "chi2_seq",
        "chi2 sequence",
        _over_responses("weight_squared", 1.0),
        "The chi-square divergence from the weights of whole responses.",
        "mean over responses of w^2, minus 1, w the product of rho over the response",
        "it grows about exponentially with the length of responses: compare like lengths",
        VERL,
        range="0 and up, though a sample can give less; lower is better",
        pitfalls=_LARGE,
        theirs=("rollout_corr/chi2_seq",),
    )
    yield _metric(
        "ess_token",
        "ESS tokens",
        _effective("rho", "rho_squared", "tokens"),
        "Effective sample size of the tokens' importance weights, as a share of the tokens.",
        "(sum of rho)^2 / (tokens * sum of rho^2)",
        "0.9: the weighted tokens are worth nine tenths of as many without weights",
        KISH,
        range="0 to 1; higher is better",
        digits=3,
        higher_is_better=True,
        largest=1.0,
    )
    yield _metric(
        "ess_seq",
        "ESS sequences",
        _effective("weight", "weight_squared", "responses"),
        "Effective sample size of the responses' importance weights, as a share of the responses.",
        "(sum of w)^2 / (responses * sum of w^2)",
        "what correcting whole responses (GSPO, sequence-level importance sampling) leaves of a "
        "batch; it falls with the length of responses",
        KISH,
        range="0 to 1; higher is better",
        pitfalls="with few responses it is too high: the rare large weights are missing.",
        digits=3,
        higher_is_better=True,
        largest=1.0,
        level=(0.3, "the alert in verl's documentation"),
    )
    yield _metric(
        "ess_token_capped",
        "ESS tokens, capped",
        _effective("capped", "capped_squared", "tokens"),
        f"ess_token with weights cut at {CAP:g}, as verl logs it with rollout_is=token.",
        f"(sum of min(rho, {CAP:g}))^2 / (tokens * sum of min(rho, {CAP:g})^2)",
        "higher than ess_token: cutting weights trades variance for bias",
        VERL,
        range="0 to 1; higher is better",
        digits=3,
        higher_is_better=True,
        largest=1.0,
        theirs=("rollout_is_eff_sample_size", "rollout_corr/rollout_is_eff_sample_size"),
        level=(0.3, "the alert in verl's documentation"),
    )
    yield _metric(
        "ess_seq_capped",
        "ESS sequences, capped",
        _effective("capped_weight_tokens", "capped_weight_squared_tokens", "tokens"),
        f"Effective sample size with responses' weights cut at {CAP:g} and counted once a token, "
        "as verl logs it with rollout_is=sequence.",
        f"(sum of n min(w, {CAP:g}))^2 / (tokens * sum of n min(w, {CAP:g})^2), n tokens a "
        "response",
        "long responses count more than short ones",
        VERL,
        range="0 to 1; higher is better",
        digits=3,
        higher_is_better=True,
        largest=1.0,
        level=(0.3, "the alert in verl's documentation"),
    )
    yield _metric(
        "token_mult_prob_error",
        "prob. error",
        _over_tokens("apart_exp"),
        "Multiplicative probability error of the sampled tokens.",
        "mean over tokens of exp(|log pi_train - log pi_rollout|)",
        "1.02: probabilities of sampled tokens are off by 2 % on average, up or down",
        NEMO,
        range="1 and up; lower is better",
        pitfalls="a few tokens far off carry it: look at the median over steps, not one step.",
        theirs=("token_mult_prob_error",),
        level=(1.05, "read as a spike by users of NeMo-RL, whose tests ask for less"),
    )
    yield _metric(
        "expected_mult_prob_error",
        "prob. error exact",
        _over_tokens("expected_apart_exp"),
        f"Multiplicative probability error of tokens that the rollout policy samples. {_EXACT}",
        "mean over tokens of sum over v of q(v) exp(|log p(v) - log q(v)|)",
        "what token_mult_prob_error comes to on average",
        HERE,
        range="1 and up; lower is better",
        level=(1.05, "read as a spike by users of NeMo-RL, whose tests ask for less"),
        expected=True,
    )
    yield _metric(
        "clipped",
        "beyond clip",
        _outside("below", "above"),
        f"Share of sampled tokens whose ratio is beyond {CLIP[0]:g} to {CLIP[1]:g}.",
        f"share of tokens with rho < {CLIP[0]:g} or rho > {CLIP[1]:g}",
        "so many tokens start outside the range of a PPO loss whose ratio is taken to the rollout "
        "policy, before the first update",
        "Schulman et al., Proximal Policy Optimization (2017)",
        range="0 to 1; lower is better",
        unit="%",
        digits=2,
        largest=1.0,
    )
    yield _metric(
        "expected_clipped",
        "beyond clip exact",
        _over_tokens("expected_outside"),
        f"Share of tokens that the rollout policy samples beyond {CLIP[0]:g} to {CLIP[1]:g}. "
        f"{_EXACT}",
        "mean over tokens of the rollout policy's probability of such tokens",
        "what `clipped` comes to on average",
        HERE,
        range="0 to 1; lower is better",
        unit="%",
        digits=2,
        largest=1.0,
        expected=True,
    )
    yield _metric(
        "own_clipped",
        "beyond own clip",
        _outside("own_below", "own_above"),
        "Share of sampled tokens whose ratio is beyond the range of --clip.",
        "share of tokens with rho below or above it",
        "as `clipped`, for another range, such as that of clip-higher or of IcePop",
        HERE,
        range="0 to 1; lower is better",
        unit="%",
        digits=2,
        largest=1.0,
    )
    yield _metric(
        "ppl_ratio",
        "ppl ratio",
        _over_responses("ppl_ratio"),
        "Perplexity of the training policy over that of the rollout policy.",
        "mean over responses of exp(mean over its tokens of log pi_rollout - log pi_train)",
        "above 1, the training policy is less sure of the text than the policy that wrote it",
        VERL,
        range="above 0; 1 is equal",
        theirs=("rollout_corr/ppl_ratio",),
    )
    yield _metric(
        "log_ppl_diff",
        "log ppl diff",
        _over_responses("log_ppl"),
        "Difference of the policies' log-perplexities of a response.",
        "mean over responses of the mean over its tokens of log pi_rollout - log pi_train",
        "the logarithm of ppl_ratio, nearly",
        VERL,
        range="any number; 0 is equal",
        unit="nats",
        theirs=("rollout_corr/log_ppl_diff",),
    )
    yield _metric(
        "log_ppl_abs_diff",
        "log ppl abs diff",
        _over_responses("log_ppl_abs"),
        "Size of the difference of the policies' log-perplexities of a response.",
        "mean over responses of |mean over its tokens of log pi_rollout - log pi_train|",
        "the geometric mean of a response's ratios is off by that much, which GSPO and geometric "
        "rejection look at",
        VERL,
        unit="nats",
        theirs=("rollout_corr/log_ppl_abs_diff",),
    )
    yield _metric(
        "logprob_abs_diff",
        "logprob abs diff",
        _over_responses("mean_apart"),
        "How far log-probabilities of the sampled tokens are apart, responses counting alike.",
        "mean over responses of the mean over its tokens of |log pi_train - log pi_rollout|",
        "slime's tests ask for at most 0.1",
        SLIME,
        unit="nats",
        theirs=("train_rollout_logprob_abs_diff",),
        level=(0.1, "the limit of slime's tests"),
    )
    yield _metric(
        "rho_mean",
        "mean weight",
        _over_tokens("rho"),
        "Mean importance weight of the sampled tokens.",
        "mean over tokens of rho",
        "1 on average where the rollout policy sampled the text: elsewhere, somebody else did",
        NEMO,
        range="0 and up; about 1 is good",
        higher_is_better=None,
        theirs=("sampling_importance_ratio",),
    )
    yield _metric(
        "rho_capped_mean",
        "mean weight, capped",
        _over_tokens("capped"),
        f"Mean importance weight of the sampled tokens, cut at {CAP:g}.",
        f"mean over tokens of min(rho, {CAP:g})",
        "below 1 by what the cut takes away",
        VERL,
        range=f"0 to {CAP:g}; about 1 is good",
        higher_is_better=None,
        theirs=("rollout_is_mean", "rollout_corr/rollout_is_mean"),
    )
    yield _metric(
        "rho_capped_std",
        "weight std, capped",
        _deviation,
        f"Standard deviation of the tokens' importance weights, cut at {CAP:g}.",
        f"square root of the mean over tokens of min(rho, {CAP:g})^2 minus that of the mean",
        "0.1: weights are off by a tenth",
        VERL,
        theirs=("rollout_is_std", "rollout_corr/rollout_is_std"),
        level=(1.0, "the alert in verl's documentation"),
    )
    yield _metric(
        "above_cap",
        "above cap",
        _over_tokens("above_cap"),
        f"Share of sampled tokens whose weight is above {CAP:g}, where trainers cut it.",
        f"share of tokens with rho > {CAP:g}",
        "so many tokens are corrected by less than they should be",
        VERL,
        range="0 to 1; lower is better",
        unit="%",
        digits=2,
        largest=1.0,
        theirs=("rollout_is_ratio_fraction_high",),
    )
    yield _metric(
        "below_cap",
        "below 1/cap",
        _over_tokens("below_cap"),
        f"Share of sampled tokens whose weight is below {1 / CAP:g}.",
        f"share of tokens with rho < {1 / CAP:g}",
        "so many tokens count for less than half of a token",
        VERL,
        range="0 to 1; lower is better",
        unit="%",
        digits=2,
        largest=1.0,
        theirs=("rollout_is_ratio_fraction_low",),
    )
    yield _metric(
        "tis",
        "tis",
        _over_responses("mean_rho"),
        "Mean importance weight, responses counting alike.",
        "mean over responses of the mean over its tokens of rho",
        "as rho_mean, with short responses counting as much as long ones",
        SLIME,
        range="0 and up; about 1 is good",
        higher_is_better=None,
        theirs=("tis",),
    )
    yield _metric(
        "tis_abs",
        "tis abs",
        _over_responses("mean_away"),
        "How far importance weights are from 1, responses counting alike.",
        "mean over responses of the mean over its tokens of |rho - 1|",
        "0.02: sampled tokens are weighted by 2 % more or less on average",
        SLIME,
        theirs=("tis_abs",),
    )
    yield _metric(
        "tis_clipfrac",
        "tis clipfrac",
        _over_responses("mean_above_cap"),
        f"Share of tokens whose weight is cut at {CAP:g}, responses counting alike.",
        f"mean over responses of the share of its tokens with rho > {CAP:g}",
        "as above_cap, with short responses counting as much as long ones",
        SLIME,
        range="0 to 1; lower is better",
        unit="%",
        digits=2,
        largest=1.0,
        theirs=("tis_clipfrac",),
    )


MISMATCH: Mapping[str, MismatchMetric] = {each.name: each for each in _declared()}


def figures(
    responses: Values, names: tuple[str, ...] | None = None
) -> dict[str, tuple[float | None, tuple[float, float] | None]]:
    """Figures with their 95 % intervals over responses.

    Arguments:
        responses: (responses, FIELDS) of srdd.numerics.mismatch.response_sums.
        names: of MISMATCH; all for None.

    Returns:
        By name the value and its interval: None where it is not finite, and no interval with fewer
        than two responses.
    """
    chosen = [MISMATCH[name] for name in names or MISMATCH]
    several = len(responses) >= FEWEST_REPLICATES
    result: dict[str, tuple[float | None, tuple[float, float] | None]] = {}
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        whole = responses.sum(axis=0)
        without = leave_one_out(responses) if several else None
        for metric in chosen:
            value = metric.compute(whole)
            interval = None
            if without is not None:
                ends = Error.of(metric.compute(without)).around(value, metric.least, metric.largest)
                if np.isfinite(ends).all():
                    interval = float(ends[0]), float(ends[1])
            result[metric.name] = (float(value) if np.isfinite(value) else None), interval
    return result
