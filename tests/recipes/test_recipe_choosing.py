"""From a scan to a recipe: budgets, groups, patterns, comparisons, and what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from recipes.made_costs import FORMATS, scan_with_costs

import srdd
from srdd.documents.recipe import Recipe, bits_of
from srdd.errors import SrddError, UsageError
from srdd.recipes import question
from srdd.recipes.costs import costs_of
from srdd.recipes.heuristics import heuristics

SCAN = scan_with_costs()


def costs(scan: srdd.Scan) -> dict[tuple[str, str], float]:
    """(tensor, format) -> nats a token, as the scan's own tables have them."""
    return {
        (row["tensor"], name): row["kl"]
        for name in scan.settings.formats
        for row in scan.sensitivities(name)
    } | {(row["tensor"], "bf16"): 0.0 for row in scan.sensitivities(scan.settings.formats[0])}


def test_it_is_the_best_of_all_recipes() -> None:
    scan = scan_with_costs(1)
    table = costs(scan)
    groups = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    full = {name.rpartition(".")[2]: name for name, _ in table}
    sizes = {one.name: one.in_features * one.out_features for one in scan.model.layers[0].linears}
    every = []
    for formats in itertools.product([*FORMATS, "bf16"], repeat=4):
        given = {full[m]: f for group, f in zip(groups, formats, strict=True) for m in group}
        bits = sum(sizes[name] * bits_of(f) for name, f in given.items()) / sum(sizes.values())
        every.append((bits, sum(table[name, f] for name, f in given.items())))
    for budget in (4.25, 4.6, 5, 6.3, 8.25, 12, 20):
        found = srdd.recipe(scan, bits=budget)
        assert found.predicted_kl == pytest.approx(min(k for b, k in every if b <= budget))
    for limit in (0.0, 0.0003, 0.001, 0.003, 0.01):
        found = srdd.recipe(scan, max_kl=limit)
        assert found.predicted_kl <= limit * (1 + 1e-9)
        assert found.bits == pytest.approx(min(b for b, k in every if k <= limit))


def test_figures_are_those_of_the_scan() -> None:
    found = srdd.recipe(SCAN, bits=5)
    table = costs(SCAN)
    assert len(found.modules) == 28
    assert all(m.kl == pytest.approx(table[m.module, m.format], rel=1e-9) for m in found.modules)
    assert found.all_low_kl == pytest.approx(SCAN.joint_kl("mxfp4")["predicted"])
    half = srdd.recipe(SCAN, max_kl="50%")
    assert half.budget.max_kl == pytest.approx(found.all_low_kl / 2)
    assert found.bits <= 5 < found.bits + 0.25
    assert Recipe.parse(found.to_json(), "it") == found


@pytest.mark.parametrize(
    ("granularity", "groups"), [("tensor", 28), ("linear-group", 16), ("layer", 4)]
)
def test_groups(granularity: str, groups: int) -> None:
    found = srdd.recipe(SCAN, bits=6, granularity=granularity)
    assert len({m.group for m in found.modules}) == groups
    assert found.granularity == granularity


def test_finer_granularity_never_costs_more() -> None:
    by = [srdd.recipe(SCAN, bits=5.3, granularity=g).predicted_kl
          for g in ("tensor", "linear-group", "layer")]  # fmt: skip
    assert by == sorted(by)


def test_experts_share_a_format_and_routers_are_kept() -> None:
    found = srdd.recipe(scan_with_costs(2, mixture=True), bits=6)
    groups: dict[str, set[str]] = {}
    for one in found.modules:
        groups.setdefault(one.group, set()).add(one.module)
    layer = "model.layers.1.mlp"
    assert groups[f"{layer}.experts"] == {
        f"{layer}.experts.gate_up_proj", f"{layer}.experts.down_proj"
    }  # fmt: skip
    assert len(groups[f"{layer}.shared_expert.gate_proj+up_proj"]) == 2
    routers = [one for one in found.modules if one.kind == "router"]
    assert {(one.format, one.pinned) for one in routers} == {("bf16", True)}
    assert all("router" in one.why for one in routers)
    other = srdd.recipe(scan_with_costs(2, mixture=True), bits=4.3, patterns=["*.mlp.gate=mxfp4"])
    assert {m.format for m in other.modules if m.kind == "router"} == {"mxfp4:floor"}


def test_patterns_pin_a_group_and_the_rest_is_the_best() -> None:
    found = srdd.recipe(SCAN, bits=6, patterns=["layers.0.self_attn.k_proj=bf16", "o_proj=nvfp4"])
    of = {m.module.removeprefix("model.layers."): m for m in found.modules}
    assert {of[f"0.self_attn.{n}_proj"].format for n in "qkv"} == {"bf16"}
    assert {of[f"{n}.self_attn.o_proj"].format for n in range(4)} == {"nvfp4:token"}
    assert of["0.self_attn.q_proj"].pinned
    assert not of["0.mlp.up_proj"].pinned
    assert of["2.self_attn.o_proj"].why == "pinned by o_proj=nvfp4"
    assert found.predicted_kl > srdd.recipe(SCAN, bits=6).predicted_kl
    first = srdd.recipe(SCAN, bits=8, patterns=["*0.mlp.down_proj=mxfp4", "*layers.0.*=bf16"],
                        granularity="tensor")  # fmt: skip
    assert first.formats_by_module["model.layers.0.mlp.down_proj"] == "mxfp4:floor"
    assert first.formats_by_module["model.layers.0.mlp.up_proj"] == "bf16"


def test_weights_alone() -> None:
    scan = scan_with_costs(2, operands=("both", "weight"))
    both, weight = (srdd.recipe(scan, bits=5, operands=o) for o in ("both", "weight"))  # type: ignore[arg-type]
    assert weight.predicted_kl == pytest.approx(0.4 * both.predicted_kl)
    assert {m.operands for m in weight.modules} == {"weight", None} - (
        set() if any(m.format == "bf16" for m in weight.modules) else {None}
    )


def test_the_cross_fit_is_of_recipes_that_other_prompts_chose() -> None:
    """With costs that are alike but for noise, what looks best is chosen for its noise."""
    scan = scan_with_costs(12, alike=True, noise=3.0, prompts=20)
    found = srdd.recipe(scan, bits=5, granularity="tensor", formats=["mxfp4"])
    true = 1e-7 * sum(
        one.parameters for one in found.modules if one.format != "bf16"
    )  # every weight costs as much
    assert found.cross_fit_kl is not None
    assert found.predicted_kl < 0.95 * true
    assert abs(found.cross_fit_kl - true) < 0.5 * abs(found.predicted_kl - true)
    within = [one for one in found.comparisons if one.bits <= found.bits + 1e-9]
    assert within
    assert all(one.verdict != "lower" for one in within)
    assert sum("is not surely better" in text or "costs more" in text
               for text in found.warnings) == len(within)  # fmt: skip


def test_a_recipe_beats_rules_where_costs_differ() -> None:
    found = srdd.recipe(scan_with_costs(8, prompts=40), bits=5)
    assert {one.verdict for one in found.comparisons if "layers" in one.name} == {"lower"}


def test_the_curve_falls_and_each_point_is_the_best_of_its_bits() -> None:
    problem = question(SCAN).problem
    bits = [point.bits for point in problem.curve]
    kl = [point.kl for point in problem.curve]
    assert bits == sorted(bits)
    assert kl == sorted(kl, reverse=True)
    assert (bits[0], bits[-1], kl[-1]) == (pytest.approx(4.25), pytest.approx(16), 0)
    for point in problem.curve[::5]:
        best = problem.at_bits(point.bits)
        assert best is not None
        assert problem.point(best).kl == pytest.approx(point.kl)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({}, "needs a budget", "bits=5"),
        ({"bits": 5, "max_kl": 1}, "only one", "bits=5"),
        ({"bits": 4}, "no recipe has 4 bits", "4.25"),
        ({"bits": float("nan")}, "nan bits", "above 0"),
        ({"bits": -1}, "-1 bits", "above 0"),
        ({"max_kl": "x"}, "'x' is no limit", "50%"),
        ({"max_kl": "-5%"}, "'-5%' is no limit", "50%"),
        ({"max_kl": 1e-9, "patterns": ["down=mxfp4"]}, "cost more than", "drop a pattern"),
        ({"bits": 5, "formats": ["int4_g32"]}, "no cost of int4_g32", "mxfp4:floor"),
        ({"bits": 5, "formats": ["mxpf4"]}, "unknown format", "mxfp4"),
        ({"bits": 5, "formats": ["bf16"]}, "leaves nothing", "mxfp4"),
        ({"bits": 5, "operands": "weight"}, "no costs with operands 'weight'", "both"),
        ({"bits": 5, "patterns": ["down_proj"]}, "names no format", "down_proj=bf16"),
        ({"bits": 5, "patterns": ["nothing=bf16"]}, "fits no linear", "down_proj"),
        ({"bits": 5, "patterns": ["up_proj=int4_g32"]}, "format of a pattern", "mxfp4"),
        ({"bits": 5, "patterns": ["q_proj=bf16", "k_proj=mxfp4"]}, "different formats", "tensor"),
        ({"bits": 5, "granularity": "row"}, "granularity", "layer"),
        ({"bits": 5, "fused": [["q", "qq"]]}, "unknown kind or name of linears 'qq'", "q, "),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        srdd.recipe(SCAN, **options)  # type: ignore[arg-type]
    assert hint in error.value.hint


def test_a_budget_that_limits_nothing_is_a_warning() -> None:
    every = srdd.recipe(SCAN, max_kl=50)  # 50 nats where 50 % was meant
    assert "limits nothing" in every.warnings[0]
    assert f"cost {every.all_low_kl:.3g}; a share of that is written 50%" in every.warnings[0]
    for limit in ("100%", "50%", every.all_low_kl):
        found = srdd.recipe(SCAN, max_kl=limit)
        assert not any("limits nothing" in text for text in found.warnings)


def test_a_rule_of_one_layer_has_no_number() -> None:
    rules = heuristics(costs_of(SCAN).linears, ["mxfp4:floor", "mxfp8_e4m3:floor"], 6.5)
    names = " ".join(rule.name for rule in rules)
    assert "first and last layer in mxfp8_e4m3" in names
    assert " 1 layers" not in names


def test_a_scan_without_costs_says_how_to_get_them() -> None:
    with pytest.raises(SrddError) as error:
        srdd.recipe(SCAN.model_copy(update={"sensitivity": None}), bits=5)
    assert "kl=True" in error.value.hint


def test_linears_without_costs_are_named() -> None:
    assert SCAN.sensitivity is not None
    fewer = [c for c in SCAN.sensitivity.changes if c.tensor != "model.layers.0.mlp.up_proj"]
    partial = SCAN.sensitivity.model_copy(update={"changes": fewer})
    found = srdd.recipe(SCAN.model_copy(update={"sensitivity": partial}), bits=5)
    assert found.left_out == ["model.layers.0.mlp.up_proj"]
    assert any("1 linear without costs" in text for text in found.warnings)
    assert len(found.modules) == 27


def test_28_layers_in_five_formats_meet_their_budget() -> None:
    asked = scan_with_costs(28, prompts=64, formats=tuple(FORMATS))
    assert asked.sensitivity is not None
    more = [
        change.model_copy(
            update={"format": "mxfp6_e2m3:floor", "nats": [v / 10 for v in change.nats]}
        )
        for change in asked.sensitivity.changes
        if change.format == "mxfp4:floor"
    ]
    sensitivity = asked.sensitivity.model_copy(
        update={"changes": [*asked.sensitivity.changes, *more]}
    )
    asked = asked.model_copy(update={"sensitivity": sensitivity})
    found = srdd.recipe(asked, bits=5)
    assert len(found.formats) == 5
    assert np.isclose(found.bits, 5, atol=0.05)
