"""Site `linear`: errors of outputs, against explicit products in float64."""

from __future__ import annotations

from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn

from srdd.documents.merge import merge_scans
from srdd.documents.records import from_record
from srdd.measurement import products
from srdd.measurement.plan import Plan
from srdd.measurement.products import product_sums, with_float64
from srdd.measurement.scanner import scan_model
from srdd.model import linears
from srdd.model.linears import Weight, weight_of
from srdd.numerics import sums
from srdd.numerics.floors import floor_of, product_floor_db
from srdd.numerics.formats import parse_spec
from srdd.numerics.quantize import fake_quantize

PROMPTS = ["one two three", "a somewhat longer prompt than the first", "x = 1"]
OPERANDS = ("weight", "input", "both")


def by_hand(
    x: torch.Tensor, w: torch.Tensor, xq: torch.Tensor, wq: torch.Tensor
) -> dict[str, dict[str, float]]:
    """Sums from float64 products of the operands and of the quantized operands."""
    x, w, xq, wq = (t.detach().double().numpy() for t in (x, w, xq, wq))
    y = x @ w.T
    result = {}
    for operands, other in (("weight", x @ wq.T), ("input", xq @ w.T), ("both", xq @ wq.T)):
        e = other - y
        result[operands] = {
            "tokens": len(x),
            "elements": y.size,
            "x2": (y**2).sum(),
            "e2": (e**2).sum(),
            "abs_x": np.abs(y).sum(),
            "abs_e": np.abs(e).sum(),
        }
    return result


def pooled(result: dict[Any, torch.Tensor], operands: str) -> dict[str, float]:
    (rows,) = [rows for (_, which), rows in result.items() if which == operands]
    return dict(zip(sums.FIELDS, rows.sum(0).tolist(), strict=True))


def agree(result: dict[str, float], wanted: dict[str, float], rel: float = 1e-5) -> None:
    for name, value in wanted.items():
        assert result[name] == pytest.approx(value, rel=rel), name


@pytest.mark.parametrize("spec", ["mxfp4", "mxfp4:even", "nvfp4", "nvfp4:tensor", "int4_g32"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_sums_are_those_of_products_in_float64(
    spec: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "SLICE", 1000)  # slices must not matter
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 96, generator=generator).to(dtype)
    w = (torch.randn(40, 96, generator=generator) * 0.05).to(dtype)
    result = product_sums(x, Weight(0, "w", w, False), Plan.of(formats=spec), None)
    wide = [t.float() for t in (x, w)]  # so that what quantizing gives is not rounded to bfloat16
    wanted = by_hand(*wide, *(fake_quantize(t, spec) for t in wide))
    for operands in OPERANDS:
        agree(pooled(result, operands), wanted[operands])


def test_a_weight_stored_the_other_way_round_gives_the_same() -> None:
    x, w = torch.randn(6, 64), torch.randn(32, 64)
    args = (Plan.of(), None)
    plain = product_sums(x, Weight(0, "w", w, False), *args)
    transposed = product_sums(x, Weight(0, "w", w.t().contiguous(), True), *args)
    for key, rows in plain.items():
        torch.testing.assert_close(transposed[key], rows, rtol=1e-6, atol=0)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    x, w = torch.randn(4, 32), torch.randn(16, 32)
    args = (Plan.of(), None)
    clean = product_sums(x[1:], Weight(0, "w", w[1:], False), *args)
    x[0, 3], w[0, 5] = float("nan"), float("inf")
    result = product_sums(x, Weight(0, "w", w, False), *args)
    for key, rows in result.items():
        field = dict(zip(sums.FIELDS, rows.T, strict=True))
        assert field["nonfinite"].tolist() == [16, 1, 1, 1]
        assert field["elements"].tolist() == [0, 15, 15, 15]
        wanted = clean[key][:, sums.INDEX["e2"]]
        torch.testing.assert_close(field["e2"][1:], wanted, rtol=1e-5, atol=0)


def test_gaussian_operands_are_at_the_floor_of_the_product() -> None:
    generator = torch.Generator().manual_seed(3)
    x, w = torch.randn(256, 2048, generator=generator), torch.randn(512, 2048, generator=generator)
    for spec in ("mxfp4", "mxfp4:rceil", "nvfp4"):
        result = product_sums(x, Weight(0, "w", w, False), Plan.of(formats=spec), None)
        floor = floor_of(parse_spec(spec)).sqnr_db
        for operands in OPERANDS:
            field = pooled(result, operands)
            sqnr = 10 * np.log10(field["x2"] / field["e2"])
            assert sqnr == pytest.approx(product_floor_db(floor, operands), abs=0.12)


def test_the_floor_of_a_product_is_that_of_its_input_features(tokenizer: Any) -> None:
    spec = parse_spec("int8_token")
    scan, other = (
        scan_model(families.shared("llama"), tokenizer, each, sites=["linear"], formats=[str(spec)])
        for each in (PROMPTS, ["another"])
    )
    widths = {
        linear.name: linear.in_features for layer in scan.model.layers for linear in layer.linears
    }
    assert len(set(widths.values())) > 1
    for record in [*scan.records, *merge_scans([scan, other]).records]:
        floor = floor_of(spec, "even", widths[record.tensor]).sqnr_db
        distance = record.metrics.sqnr_db - product_floor_db(floor, record.operands)
        assert record.vs_floor_db == pytest.approx(distance, abs=1e-9)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_a_scan_measures_the_product_of_every_linear(family: str, tokenizer: Any) -> None:
    model = families.shared(family)
    scan = scan_model(model, tokenizer, PROMPTS, sites=["linear"], batch_size=3)
    kept: dict[str, list[torch.Tensor]] = {}
    from srdd.model.experts import one_by_one, watching
    from srdd.model.structure import find_structure

    structure = find_structure(model)
    handles, watches = [], []
    for layer in structure.layers:
        for linear in layer.linears:

            def keep(module: Any, given: Any, name: str = linear.name) -> None:
                kept.setdefault(name, []).append(given[0].detach().reshape(-1, given[0].shape[-1]))

            handles.append(model.get_submodule(linear.name).register_forward_pre_hook(keep))
        watches += [(name, model.get_submodule(name)) for name in layer.stacked]
    products: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    contexts = [
        watching(
            module,
            lambda p, name=name: products.setdefault(f"{name}.{p.key}", []).append((p.x, p.weight)),
        )
        for name, module in watches
    ]
    for context in contexts:
        context.__enter__()
    with torch.no_grad(), one_by_one(module for _, module in watches):
        for prompt in PROMPTS:
            model.eval()(input_ids=torch.tensor([tokenizer(prompt)["input_ids"]]))
    for context in contexts:
        context.__exit__(None, None, None)
    for handle in handles:
        handle.remove()
    for name, parts in kept.items():
        module = model.get_submodule(name)
        weight = weight_of(0, name, module)
        w = weight.data.t() if weight.transposed else weight.data
        products[name] = [(torch.cat(parts), w)]

    result: dict[tuple[str, str], dict[str, float]] = {}
    for record in scan.records:
        total = from_record(record).replicates.sum(0).tolist()
        result[record.tensor, record.operands] = dict(zip(sums.FIELDS, total, strict=True))
    assert {name for name, _ in result} == set(products)
    for name, pairs in products.items():
        for operands in OPERANDS:
            wanted = dict.fromkeys(("tokens", "elements", "x2", "e2", "abs_x", "abs_e"), 0.0)
            for x, w in pairs:
                one = by_hand(x, w, fake_quantize(x.float(), "mxfp4"), fake_quantize(w, "mxfp4"))
                wanted = {key: wanted[key] + one[operands][key] for key in wanted}
            agree(result[name, operands], wanted, rel=1e-3)


def test_a_record_says_what_has_no_meaning_there(tokenizer: Any) -> None:
    scan = scan_model(families.shared("llama"), tokenizer, PROMPTS, sites=["linear", "input"])
    for record in scan.select("linear"):
        assert record.operands == "both"
        assert set(record.undefined) == {
            "deadzone",
            "saturation",
            "clipping_share",
            "relative_error",
        }
        assert record.metrics.relative_error is None
        assert record.metrics.sqnr_db is not None
        assert record.intervals.deadzone is None
    assert {len(scan.select("linear", operands=which)) for which in OPERANDS} == {21}
    ranked = {(r.operands, r.metric) for r in scan.rankings if r.site == "linear"}
    assert ranked == {(which, m) for which in OPERANDS for m in ("relative_l1", "sqnr_db")}
    assert len(scan.select("input")) == 12
    assert {r.operands for r in scan.select("input")} == {None}


def test_what_it_costs_is_reported_before(tokenizer: Any) -> None:
    from srdd.measurement.listener import Listener

    heard: list[str] = []
    listener = Listener(
        started=lambda what, amount, unit: heard.append(what),
        informed=lambda text: heard.append(text),
    )
    model = families.shared("llama")
    scan = scan_model(
        model,
        tokenizer,
        PROMPTS,
        sites=["linear"],
        formats=["mxfp4", "nvfp4"],
        listener=listener,
    )
    per_token = sum(
        linear.in_features * linear.out_features
        for layer in scan.model.layers
        for linear in layer.linears
    )
    operations = 2 * 7 * per_token * scan.calibration.tokens
    assert heard[0] == (
        "site linear takes 7 products in float32 for each product of the model, "
        f"{operations / 1e9:,.1f} billion operations in all"
    )
    assert heard[1].startswith("measuring")


UP = "model.layers.0.mlp.up_proj"


def with_weight(weight: torch.Tensor) -> nn.Module:
    """A model one of whose linears has another weight, and lets its input go past it.

    Its product would not fit what follows; hooks see the call all the same.
    """
    model = families.new("llama")
    linear = model.get_submodule(UP)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    linear.forward = lambda x: x.new_zeros(*x.shape[:-1], 96)
    return model


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.empty(96, 64, device="meta"), "its weight is offloaded or on the meta device"),
        (torch.empty(0, 64), "its weight has no elements"),
        (
            torch.zeros(96, 64, dtype=torch.int8),
            "its weight is stored as torch.int8, which is quantized already",
        ),
    ],
    ids=["meta", "zero-sized", "int8"],
)
def test_a_product_that_cannot_be_measured_is_named_with_the_reason(
    weight: torch.Tensor, reason: str, tokenizer: Any
) -> None:
    scan = scan_model(with_weight(weight), tokenizer, PROMPTS, sites=["linear"])
    assert [(each.module, each.site, each.reason) for each in scan.not_measured] == [
        (UP, "linear", reason)
    ]
    measured = {record.tensor for record in scan.records}
    assert UP not in measured
    assert len(measured) == families.LAYERS * 7 - 1


def test_the_product_with_a_weight_of_one_row_is_measured(tokenizer: Any) -> None:
    weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(5))
    model = with_weight(weight)
    kept: list[torch.Tensor] = []
    hook = model.get_submodule(UP).register_forward_pre_hook(
        lambda module, given: kept.append(given[0].reshape(-1, 64))
    )
    scan = scan_model(model, tokenizer, PROMPTS[:1], sites=["linear"])
    hook.remove()
    assert scan.not_measured == []
    (x,) = kept
    wanted = by_hand(x, weight, fake_quantize(x, "mxfp4"), fake_quantize(weight, "mxfp4"))
    for record in scan.records:
        if record.tensor == UP:
            result = dict(zip(sums.FIELDS, from_record(record).replicates.sum(0), strict=True))
            agree(result, wanted[record.operands])
            assert result["elements"] == result["tokens"] == len(x)


@pytest.mark.parametrize(
    ("device", "chosen"), [("mps", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1"), ("meta", "meta")]
)
def test_products_are_measured_where_there_is_float64(device: str, chosen: str) -> None:
    assert with_float64(torch.device(device)) == torch.device(chosen)


def test_operands_are_brought_to_where_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "with_float64", lambda device: torch.device("meta"))
    plan = Plan.of(formats=["mxfp4", "nvfp4:tensor"])
    x, w, counts = torch.randn(3, 64), torch.randn(8, 64), torch.ones(3, dtype=torch.bool)
    result = product_sums(x, Weight(0, "w", w, False), plan, torch.arange(3), counts)
    assert {rows.device.type for rows in result.values()} == {"meta"}
