"""How a name is matched, by each consumer's way of matching."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdd.errors import InputError
from srdd.recipes.checking.patterns import How, is_partial, matcher

FUSED = "model.layers.0.mlp.gate_up_proj"
ROUTER = "model.layers.0.mlp.gate"


@pytest.mark.parametrize(
    ("text", "how", "fused", "router"),
    [
        ("mlp.gate", "substring", True, True),
        (".*mlp.gate", "match", True, True),
        (".*mlp.gate", "fullmatch", False, True),
        ("mlp.gate", "exact", False, False),
        (".*mlp.gate$", "match", False, True),
        ("*mlp.gate", "glob", False, True),
        ("*mlp.gate*", "glob", True, True),
        ("model.layers.0.mlp.gate", "exact", False, True),
    ],
)
def test_a_router_s_pattern_and_a_fused_linear(
    text: str, how: How, fused: bool, router: bool
) -> None:
    assert matcher(text, how)(FUSED) is fused
    assert matcher(text, how)(ROUTER) is router
    assert is_partial(text, how, FUSED) is fused
    assert not is_partial(text, how, ROUTER)


@pytest.mark.parametrize(
    ("text", "how", "name", "partial"),
    [
        ("layers.1", "substring", "model.layers.10.mlp.up_proj", True),
        ("layers.1.", "substring", "model.layers.1.mlp.up_proj", False),
        ("layers.1", "substring", "model.layers.1.mlp.up_proj", False),
        ("experts", "substring", "model.layers.1.mlp.shared_experts.up_proj", True),
        ("*experts*", "glob", "model.layers.1.mlp.shared_experts.up_proj", True),
        ("*experts*", "glob", "model.layers.1.mlp.experts.0.up_proj", False),
        ("*layers.1*", "glob", "decoder.layers.12.mlp.linear_fc1", True),
        ("*layers.1.*", "glob", "decoder.layers.1.mlp.linear_fc1", False),
        ("*_proj*", "glob", "model.layers.1.mlp.up_proj.weight_quantizer", False),
        ("*weight_quantizer", "glob", "model.experts.gate_up_proj_weight_quantizer", False),
        ("*", "glob", "model.layers.1.mlp.up_proj", False),
        (".*self_attn", "match", "model.layers.1.self_attn.q_proj", False),
        (".*", "match", "model.layers.1.self_attn.q_proj", False),
        (r"model\.layers\.1", "match", "model.layers.12.self_attn.q_proj", True),
    ],
)
def test_a_match_that_ends_inside_a_word(text: str, how: How, name: str, partial: bool) -> None:
    assert matcher(text, how)(name)
    assert is_partial(text, how, name) is partial


NAMES = st.text("ab.1_", max_size=8)


@given(st.text("ab.*?1_[]", max_size=6), NAMES)
def test_globs_are_those_of_fnmatch(pattern: str, name: str) -> None:
    assert matcher(pattern, "glob")(name) is fnmatch.fnmatchcase(name, pattern)


@given(st.text("ab.*1_$|", max_size=6), NAMES)
def test_expressions_are_those_of_re(pattern: str, name: str) -> None:
    try:
        re.compile(pattern)
    except re.error:
        with pytest.raises(InputError, match="no regular expression"):
            matcher(pattern, "match")
        return
    assert matcher(pattern, "match")(name) is (re.match(pattern, name) is not None)
    assert matcher(pattern, "fullmatch")(name) is (re.fullmatch(pattern, name) is not None)
