"""A recipe as the settings of each consumer.

Every pattern is a name in full, or a regular expression that is anchored at both ends, so that it
means the same by whichever function it is matched. Linears that a recipe keeps in 16 bits are named
where a consumer would otherwise have to guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from srdd.documents.recipe import KEPT, Module, Recipe
from srdd.documents.settings_text import Settings
from srdd.errors import UsageError
from srdd.recipes.exports.consumers import settings_of
from srdd.recipes.exports.names import expressions, is_stacked
from srdd.recipes.megatron_names import megatron_name

_ROUTERS = r"re:^.*\.(?:gate|router|shared_expert_gate)$"


def _by_settings(consumer: str, recipe: Recipe) -> list[tuple[str, Any, list[Module]]]:
    """Format and operands, the settings that mean them, and the modules that have them."""
    groups: dict[tuple[str, str | None], list[Module]] = {}
    for module in recipe.modules:
        if module.format != KEPT:
            groups.setdefault((module.format, module.operands), []).append(module)
    if not groups:
        raise UsageError("the recipe quantizes nothing", "choose one with a smaller budget of bits")
    return [
        (f"{chosen} {operands}", settings_of(consumer, members[0]), members)
        for (chosen, operands), members in groups.items()
    ]


def _kept(recipe: Recipe) -> list[str]:
    return [*(m.module for m in recipe.modules if m.format == KEPT), *recipe.left_out]


def _targets(modules: Iterable[str], *, apart: bool) -> list[str]:
    return [f"re:{text}" for text in expressions(modules, apart=apart)]


def _config_groups(consumer: str, recipe: Recipe) -> tuple[dict[str, Any], list[str], list[str]]:
    """`config_groups`, `ignore`, and the formats that weights are stored in."""
    groups, stored = {}, []
    for number, (_, settings, members) in enumerate(_by_settings(consumer, recipe)):
        targets = _targets((m.module for m in members), apart=True)
        groups[f"group_{number}"] = {"targets": targets, **settings}
        stored.append(settings.get("format"))
    ignore = ["lm_head", *_targets(_kept(recipe), apart=True)]
    if any(".experts." in m.module for m in recipe.modules):
        ignore.append(_ROUTERS)
    return groups, ignore, list(dict.fromkeys(stored))


def _compressed_tensors(recipe: Recipe) -> Settings:
    """`quantization_config`: config_groups with a scheme each, and `ignore`."""
    groups, ignore, stored = _config_groups("compressed-tensors", recipe)
    return {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": stored[0] if len(stored) == 1 else "mixed-precision",
            "config_groups": groups,
            "ignore": ignore,
        }
    }


def _llm_compressor(recipe: Recipe) -> Settings:
    """One stage with one modifier, which rounds to nearest."""
    groups, ignore, _ = _config_groups("llm-compressor", recipe)
    modifier = {"config_groups": groups, "ignore": ignore}
    return {"quantization_stage": {"quantization_modifiers": {"QuantizationModifier": modifier}}}


def _torchao(recipe: Recipe) -> Settings:
    """`FqnToConfig`: what it does not name stays as it is."""
    chosen: dict[str, Any] = {}
    for _, settings, members in _by_settings("torchao", recipe):
        stacked = next((m.module for m in members if is_stacked(m.module)), None)
        if stacked is not None:
            raise UsageError(
                f"torchao quantizes linears, and {stacked} is a stack of experts",
                f"keep the experts in {KEPT}, or export for another consumer",
            )
        for target in _targets((m.module for m in members), apart=False):
            chosen[target] = settings
    return {"_type": "FqnToConfig", "_version": 1, "_data": {"fqn_to_config": chosen}}


def _modelopt(recipe: Recipe) -> Settings:
    """`quant_cfg`: everything off, then the quantizers of each linear by their names in full."""
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    calibrated = False
    for _, settings, members in _by_settings("modelopt", recipe):
        for module in members:
            joint = "_" if is_stacked(module.module) else "."
            for side, attributes in settings.items():
                name = f"{module.module}{joint}{side}_quantizer"
                entries.append({"quantizer_name": name, "cfg": _attributes(attributes)})
                calibrated |= attributes["block_sizes"].get("scale_bits") != "e8m0"
    return {"quant_cfg": entries, "algorithm": "max" if calibrated else None}


def _attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Block sizes stand under the number of their axis."""
    sizes = attributes["block_sizes"]
    return {
        **attributes,
        "block_sizes": {-1: sizes["-1"]} | {k: v for k, v in sizes.items() if k != "-1"},
    }


def _megatron(recipe: Recipe) -> Settings:
    """`configs` and `matchers`, the last of which keeps the rest in bf16."""
    formats: dict[str, dict[str, list[str]]] = {}
    configs: dict[str, Any] = {KEPT: _precision({})}
    chosen: dict[str, str] = {}
    for label, settings, members in _by_settings("megatron", recipe):
        key = label.partition(":")[0]
        configs[key] = _precision(settings)
        chosen |= {m.module: key for m in members}
    for name in [m.module for m in recipe.modules] + recipe.left_out:
        own = megatron_name(name)
        if own is not None:
            formats.setdefault(own, {}).setdefault(chosen.get(name, KEPT), []).append(name)
        elif name in chosen:
            raise UsageError(
                f"what Megatron-Core calls {name} is not known", "export for another consumer"
            )
    matchers = {}
    for own, keys in formats.items():
        if len(keys) > 1:
            parts = "; ".join(f"{', '.join(names)}: {key}" for key, names in keys.items())
            raise UsageError(
                f"{own} is one linear in Megatron-Core, and its parts differ ({parts})",
                "choose the recipe with `granularity=linear-group`",
            )
        (key,) = keys
        if key != KEPT:
            matchers[own.replace(".", "_")] = _matcher(own.replace(".experts.", ".experts.*"), key)
    matchers["rest"] = _matcher("*", KEPT)
    return {"configs": configs, "matchers": matchers}


def _precision(training: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "transformer_engine_config_type": "TEQuantizationParams",
        "training_recipe": dict(training),
    }


def _matcher(pattern: str, config: str) -> dict[str, Any]:
    return {"type": "glob", "enabled": True, "pattern": pattern, "config": config}


WRITERS: Mapping[str, Callable[[Recipe], Settings]] = {
    "compressed-tensors": _compressed_tensors,
    "llm-compressor": _llm_compressor,
    "torchao": _torchao,
    "modelopt": _modelopt,
    "megatron": _megatron,
}
"""Consumer -> its settings for a recipe. UsageError where it cannot do what the recipe says."""
