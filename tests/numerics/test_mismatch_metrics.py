"""Figures of the mismatch against loops written from what verl, NeMo-RL and slime document."""

from __future__ import annotations

import math

import numpy as np
import pytest

from srdd.numerics.mismatch import EXPECTED_FIELDS, FIELDS, response_sums, token_sums
from srdd.numerics.mismatch_metrics import MISMATCH, figures

OWN = (0.5, 5.0)


def responses_of(seed: int, spread: float = 0.3) -> list[tuple[list[float], list[float]]]:
    """Log-probabilities (train, rollout) of the tokens of responses of several lengths."""
    rng = np.random.default_rng(seed)
    made = []
    for length in (1, 3, 40, 7, 2, 19):
        rollout = -rng.exponential(1.0, length)
        made.append(((rollout + spread * rng.standard_normal(length)).tolist(), rollout.tolist()))
    return made


def computed(responses: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    sums = np.stack(
        [token_sums(np.array(t), np.array(r), OWN).sum(axis=0) for t, r in responses], axis=0
    )
    found = figures(response_sums(sums))
    return {name: value for name, (value, _) in found.items() if value is not None}


def verl(responses: list[tuple[list[float], list[float]]], threshold: float) -> dict[str, float]:
    """verl's off-policy and importance-weight metrics, one token after the other."""
    tokens = [(a, b) for train, rollout in responses for a, b in zip(train, rollout, strict=True)]
    n, found = len(tokens), {}
    found["kl"] = sum(b - a for a, b in tokens) / n
    found["k3_kl"] = sum(math.exp(a - b) - (a - b) - 1 for a, b in tokens) / n
    safe = [max(-20.0, min(20.0, a - b)) for a, b in tokens]
    found["chi2_token"] = sum(math.exp(x) ** 2 for x in safe) / n - 1
    ratios, diffs, squares, sequence = [], [], [], []
    for train, rollout in responses:
        mean_train, mean_rollout = sum(train) / len(train), sum(rollout) / len(rollout)
        diffs.append(mean_rollout - mean_train)
        ratios.append(math.exp(mean_rollout - mean_train))
        total = max(-20.0, min(20.0, sum(a - b for a, b in zip(train, rollout, strict=True))))
        squares.append(math.exp(2 * total))
        sequence += [math.exp(total)] * len(train)
    found["chi2_seq"] = sum(squares) / len(squares) - 1
    found["ppl_ratio"] = sum(ratios) / len(ratios)
    found["log_ppl_diff"] = sum(diffs) / len(diffs)
    found["log_ppl_abs_diff"] = sum(map(abs, diffs)) / len(diffs)
    token = [math.exp(x) for x in safe]
    found["fraction_high"] = sum(w > threshold for w in token) / n
    found["fraction_low"] = sum(w < 1 / threshold for w in token) / n
    for level, weights in (("token", token), ("sequence", sequence)):
        cut = [min(w, threshold) for w in weights]
        mean = sum(cut) / n
        found[f"ess_{level}"] = 1 / (sum((w / mean) ** 2 for w in cut) / n)
        if level == "token":
            found["is_mean"] = mean
            found["is_std"] = math.sqrt(sum(w * w for w in cut) / n - mean * mean)
    return found


def nemo_rl(responses: list[tuple[list[float], list[float]]]) -> dict[str, float]:
    tokens = [(a, b) for train, rollout in responses for a, b in zip(train, rollout, strict=True)]

    def k3(of: float, against: float) -> float:
        return math.exp(against - of) - 1 - (against - of)

    js = 0.0
    for a, b in tokens:
        mixture = math.log((math.exp(a) + math.exp(b)) / 2)
        js += (math.exp(a - mixture) - (a - mixture) - 1) / 2
        js += (math.exp(b - mixture) - (b - mixture) - 1) / 2
    n = len(tokens)
    return {
        "token_mult_prob_error": sum(math.exp(abs(b - a)) for a, b in tokens) / n,
        "gen_kl_error": sum(k3(b, a) for a, b in tokens) / n,
        "policy_kl_error": sum(k3(a, b) for a, b in tokens) / n,
        "js_divergence_error": js / n,
        "sampling_importance_ratio": sum(math.exp(a - b) for a, b in tokens) / n,
    }


def slime(responses: list[tuple[list[float], list[float]]], clip: float) -> dict[str, float]:
    sums = dict.fromkeys(("abs_diff", "tis", "tis_abs", "tis_clipfrac"), 0.0)
    for train, rollout in responses:
        ratios = [math.exp(a - b) for a, b in zip(train, rollout, strict=True)]
        n = len(ratios)
        sums["abs_diff"] += sum(abs(a - b) for a, b in zip(train, rollout, strict=True)) / n
        sums["tis"] += sum(ratios) / n
        sums["tis_abs"] += sum(abs(r - 1) for r in ratios) / n
        sums["tis_clipfrac"] += sum(min(r, clip) != r for r in ratios) / n
    return {name: total / len(responses) for name, total in sums.items()}


@pytest.mark.parametrize("spread", [0.01, 0.3, 2.0, 15.0])
def test_figures_are_those_of_the_trainers(spread: float) -> None:
    for seed in range(5):
        responses = responses_of(seed, spread)
        ours = computed(responses)
        theirs = verl(responses, 2.0)
        pairs = {
            "k1": theirs["kl"],
            "k3": theirs["k3_kl"],
            "chi2_token": theirs["chi2_token"],
            "chi2_seq": theirs["chi2_seq"],
            "ppl_ratio": theirs["ppl_ratio"],
            "log_ppl_diff": theirs["log_ppl_diff"],
            "log_ppl_abs_diff": theirs["log_ppl_abs_diff"],
            "ess_token_capped": theirs["ess_token"],
            "ess_seq_capped": theirs["ess_sequence"],
            "above_cap": theirs["fraction_high"],
            "below_cap": theirs["fraction_low"],
            "rho_capped_mean": theirs["is_mean"],
            "rho_capped_std": theirs["is_std"],
        }
        if spread < 5:  # NeMo-RL and slime do not cut exponents
            other = nemo_rl(responses)
            pairs |= {
                "token_mult_prob_error": other["token_mult_prob_error"],
                "k3": other["gen_kl_error"],
                "k3_reversed": other["policy_kl_error"],
                "js_divergence": other["js_divergence_error"],
                "rho_mean": other["sampling_importance_ratio"],
            }
            third = slime(responses, 2.0)
            pairs |= {
                "logprob_abs_diff": third["abs_diff"],
                "tis": third["tis"],
                "tis_abs": third["tis_abs"],
                "tis_clipfrac": third["tis_clipfrac"],
            }
        for name, value in pairs.items():
            assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-12), name


def test_shares_beyond_clipping_ranges_and_plain_effective_sample_sizes() -> None:
    responses = responses_of(7, 0.5)
    ours = computed(responses)
    rho = [math.exp(a - b) for t, r in responses for a, b in zip(t, r, strict=True)]
    weight = [math.exp(sum(t) - sum(r)) for t, r in responses]
    assert ours["clipped"] == pytest.approx(sum(x < 0.8 or x > 1.2 for x in rho) / len(rho))
    assert ours["own_clipped"] == pytest.approx(sum(x < 0.5 or x > 5 for x in rho) / len(rho))
    for name, weights in (("ess_token", rho), ("ess_seq", weight)):
        share = sum(weights) ** 2 / sum(w * w for w in weights) / len(weights)
        assert ours[name] == pytest.approx(share)


def test_equal_policies_have_no_mismatch() -> None:
    responses = [(train, train) for train, _ in responses_of(1)]
    ours = computed(responses)
    ones = (
        "ess_token ess_seq ess_token_capped ess_seq_capped token_mult_prob_error ppl_ratio "
        "rho_mean rho_capped_mean tis"
    )
    for name in MISMATCH:
        if not MISMATCH[name].expected:
            assert ours[name] == pytest.approx(float(name in ones.split()), abs=1e-12), name


def test_responses_merge_by_adding_and_intervals_leave_one_out() -> None:
    sums = np.stack(
        [token_sums(np.array(t), np.array(r)).sum(axis=0) for t, r in responses_of(3)], axis=0
    )
    each = response_sums(sums)
    assert each.shape == (6, len(FIELDS))
    found = figures(each)
    value, interval = found["k3"]
    assert interval is not None
    assert value is not None
    assert interval[0] < value < interval[1]
    without = [np.delete(each, n, axis=0).sum(axis=0) for n in range(6)]
    k3 = np.array([MISMATCH["k3"].compute(one) for one in without])
    size = math.sqrt(5 / 6 * np.square(k3 - k3.mean()).sum())
    assert interval[1] - value > 1.9 * size
    assert figures(each[:1])["k3"][1] is None


def lognormal_figures(
    rng: np.random.Generator, responses: int, tokens: int, sigma: float
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Figures of policies whose log-ratio is normal, with mean -sigma^2 / 2 under the rollout's."""
    sums = []
    for _ in range(responses):
        # Responses differ in how far their tokens are apart.
        own = sigma * rng.uniform(0.5, 1.5)
        d = -(own**2) / 2 + own * rng.standard_normal(tokens)
        sums.append(token_sums(d, np.zeros(tokens)).sum(axis=0))
    return figures(response_sums(np.stack(sums)))


def test_intervals_cover_a_known_mismatch() -> None:
    """Closed forms: for rho = exp(N(-s^2/2, s^2)), E[k1] = E[k3] = s^2/2, E[rho^2] = exp(s^2)."""
    sigma, runs, rng = 0.2, 300, np.random.default_rng(5)
    # E over s uniform in 0.5 ... 1.5 sigma, by a fine sum.
    s = sigma * (0.5 + (np.arange(100000) + 0.5) / 100000)
    phi = np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))
    coarse = s[::100]
    high = phi(-(math.log(1.2) + coarse**2 / 2) / coarse)
    low = phi((math.log(0.8) + coarse**2 / 2) / coarse)
    known = {
        "k1": float((s**2 / 2).mean()),
        "k3": float((s**2 / 2).mean()),
        "chi2_token": float((np.exp(s**2) - 1).mean()),
        "rho_mean": 1.0,
        "clipped": float((high + low).mean()),
    }
    covered = dict.fromkeys(known, 0)
    for _ in range(runs):
        found = lognormal_figures(rng, 60, 30, sigma)
        for name, value in known.items():
            interval = found[name][1]
            covered[name] += interval[0] <= value <= interval[1]
    for name, count in covered.items():
        # 95 % with 300 runs has a standard error of 1.3 %.
        assert 0.91 <= count / runs <= 0.985, (name, count / runs)


def test_expected_fields_stand_behind_the_sampled_ones() -> None:
    expected = np.arange(2 * len(EXPECTED_FIELDS), dtype=float).reshape(2, -1)
    sums = token_sums(np.array([-1.0, -2.0]), np.array([-1.1, -1.9]), None, expected)
    found = computed_from(sums)
    assert found["kl_reversed"] == pytest.approx((expected[0, 1] + expected[1, 1]) / 2)
    assert found["expected_chi2"] == pytest.approx((expected[0, 2] + expected[1, 2]) / 2)


def computed_from(tokens: np.ndarray) -> dict[str, float | None]:
    each = response_sums(tokens.sum(axis=0)[None])
    return {name: value for name, (value, _) in figures(each).items()}
