"""A file that a quantizer or trainer reads -> its entries, each a pattern with what it does.

Files may come from anywhere: whatever has not the shape that the consumer expects is an InputError
that says what is expected. What has nothing to do with the choice of modules is not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from srdd.errors import InputError
from srdd.recipes.checking.formats import (
    FULL,
    PRESETS,
    Operands,
    of_compressed_tensors,
    of_modelopt,
    of_torchao,
    of_transformer_engine,
)
from srdd.recipes.checking.patterns import REGEX, How


@dataclass(frozen=True)
class Entry:
    """A pattern of a file.

    Attributes:
        text: as it stands in the file.
        where: where it stands, such as `ignore`.
        pattern: what is matched, without the prefix of a regular expression.
        how: how it is matched.
        operands: what the modules that it matches become. A consumer that sets the quantizers of
            weight and input apart has the format of either as `weight`; None leaves it as it was.
        keeps: whether it keeps modules out of quantization.
        block: number of the part of the file that it is in, where parts are applied in turn.
        parent: class of the module that it is limited to.
    """

    text: str
    where: str
    pattern: str
    how: How
    operands: Operands | None
    keeps: bool
    block: int = 0
    parent: str | None = None

    def __str__(self) -> str:
        return f"{self.text} ({self.where})"


@dataclass(frozen=True)
class Rules:
    """The entries of a file in its order, and what a linear becomes that none of them matches."""

    source: str
    entries: tuple[Entry, ...]
    default: Operands = FULL


Content = Mapping[str, Any]


def read_content(path: str) -> Content:
    """A JSON or YAML file as a mapping.

    Raises:
        InputError: it cannot be read or is neither.
    """
    import yaml

    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}", "name a file, JSON or YAML"
        ) from None
    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            content = yaml.safe_load(raw)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            line = str(error).strip().splitlines()[0][:200]
            raise InputError(f"{path} is neither JSON nor YAML ({line})", "correct it") from None
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds no mapping", "name a file of the consumer's settings")
    return content


def _patterned(
    texts: Sequence[Any],
    where: str,
    operands: Operands | None,
    *,
    plain: How = "exact",
    regex: How = "match",
    keeps: bool = False,
    block: int = 0,
) -> Iterator[Entry]:
    """Entries of a list of names, in which `re:` begins a regular expression."""
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"{where} holds {text!r}, which is not a name", "write a list of names"
            )
        if text.startswith(REGEX):
            pattern, how = text.removeprefix(REGEX), regex
        else:
            pattern, how = text, plain
        yield Entry(text, where, pattern, how, operands, keeps, block)


def _names(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise InputError(f"{where} is not a list", "write a list of names")
    return value


def _mapping(value: Any, where: str) -> Content:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is not a mapping", "see the documentation of the consumer")
    return value


def _scheme(settings: Any, where: str) -> Operands:
    found = _mapping(settings, where)
    both = [
        None if (args := found.get(key)) is None else _mapping(args, f"{where}.{key}")
        for key in ("weights", "input_activations")
    ]
    return Operands(*map(of_compressed_tensors, both))


def _preset(name: str, where: str) -> Operands:
    from srdd.errors import unknown_name

    if name.upper() not in PRESETS:
        raise unknown_name(f"scheme in {where}", name, PRESETS)
    return PRESETS[name.upper()]


def _config_groups(groups: Any, block: int = 0) -> Iterator[Entry]:
    for name, settings in _mapping(groups, "config_groups").items():
        where = f"config_groups.{name}"
        if isinstance(settings, list):  # a preset, with its targets
            yield from _patterned(settings, where, _preset(name, "config_groups"), block=block)
            continue
        targets = _names(_mapping(settings, where).get("targets"), f"{where}.targets")
        yield from _patterned(targets, where, _scheme(settings, where), block=block)


def read_compressed_tensors(content: Content, source: str) -> Rules:
    """A `quantization_config`, or the config.json that holds one."""
    config = content.get("quantization_config", content)
    method = _mapping(config, "quantization_config").get("quant_method", "compressed-tensors")
    if method != "compressed-tensors" or "config_groups" not in config:
        raise InputError(
            f"{source} is no quantization_config of compressed-tensors"
            + (f", but of {method}" if method != "compressed-tensors" else ": no config_groups"),
            "name the file, or the config.json, that has config_groups",
        )
    ignore = _patterned(_names(config.get("ignore"), "ignore"), "ignore", None, keeps=True)
    return Rules(source, (*_config_groups(config["config_groups"]), *ignore))


def read_llm_compressor(content: Content, source: str) -> Rules:
    """A recipe: stages, modifiers, and in each `targets` with `scheme`, or `config_groups`."""
    entries: list[Entry] = []
    blocks = 0
    for stage, groups in content.items():
        if not str(stage).endswith("_stage") or not isinstance(groups, Mapping):
            continue
        for group, modifiers in groups.items():
            if not str(group).endswith("_modifiers") or not isinstance(modifiers, Mapping):
                continue
            for name, arguments in modifiers.items():
                if isinstance(arguments, Mapping) and arguments.keys() & {
                    "scheme",
                    "config_groups",
                }:
                    entries += _modifier(arguments, str(name), blocks)
                    blocks += 1
    if not blocks:
        raise InputError(
            f"{source} has no modifier with a scheme or config_groups",
            "write them under NAME_stage, NAME_modifiers, QuantizationModifier",
        )
    return Rules(source, tuple(entries))


def _modifier(arguments: Content, name: str, block: int) -> Iterator[Entry]:
    targets = _names(arguments.get("targets", ["Linear"]), f"{name}.targets")
    scheme = arguments.get("scheme")
    if isinstance(scheme, str):
        operands = _preset(scheme, f"{name}.scheme")
        yield from _patterned(targets, f"{name}.targets", operands, block=block)
    elif isinstance(scheme, Mapping) and "weights" in scheme:
        where = f"{name}.scheme"
        yield from _patterned(targets, f"{name}.targets", _scheme(scheme, where), block=block)
    elif scheme is not None:
        for preset, own in _mapping(scheme, f"{name}.scheme").items():
            where = f"{name}.scheme.{preset}"
            yield from _patterned(
                _names(own, where), where, _preset(str(preset), f"{name}.scheme"), block=block
            )
    if arguments.get("config_groups") is not None:
        yield from _config_groups(arguments["config_groups"], block)
    ignore = _names(arguments.get("ignore"), f"{name}.ignore")
    yield from _patterned(ignore, f"{name}.ignore", None, keeps=True, block=block)


_VERL_MODES = {"w4a16": Operands("nvfp4"), "w4a4": Operands("nvfp4", "nvfp4")}


def _qat(content: Any) -> Content | None:
    """The section `qat` of a trainer's settings, however deep it stands."""
    if not isinstance(content, Mapping):
        return None
    if "ignore_patterns" in content:
        return content
    return next((found for value in content.values() if (found := _qat(value))), None)


def _verl(content: Content, source: str) -> tuple[list[Any], Operands, str]:
    """The patterns to ignore, the format of the rest, and what the patterns stand under."""
    section = _qat(content)
    if section is not None:
        mode = str(section.get("mode", "w4a16")).lower()
        if mode not in _VERL_MODES:
            raise InputError(f"{source} has mode {mode!r}", "verl's FSDP path knows w4a16 and w4a4")
        patterns = _names(section["ignore_patterns"], "ignore_patterns")
        return patterns, _VERL_MODES[mode], "ignore_patterns"
    rules = read_compressed_tensors(content, source)
    formats = list(dict.fromkeys(each.operands for each in rules.entries if each.operands))
    if len(formats) != 1:
        shown = ", ".join(map(str, formats))
        raise InputError(
            f"{source} has {len(formats)} formats ({shown}), and verl trains all that is not "
            "ignored in one",
            "write one group of config_groups",
        )
    return [each.text for each in rules.entries if each.keeps], formats[0], "ignore"


def read_verl(content: Content, source: str) -> Rules:
    """The section `qat` with its `ignore_patterns`, or the quantization_config beside it."""
    patterns, operands, where = _verl(content, source)
    entries = _patterned(patterns, where, None, plain="substring", keeps=True)
    return Rules(source, tuple(entries), operands)


_VERL_GLOBS = {
    "lm_head": "*output_layer*",
    "*mlp.gate": "*router*",
    "*self_attn*": "*self_attention*",
}
"""What verl replaces before the names of Megatron-Core are matched."""


def read_verl_megatron(content: Content, source: str) -> Rules:
    """The section `qat`, whose patterns are shell patterns for the names of Megatron-Core."""
    patterns, operands, where = _verl(content, source)
    entries = tuple(
        Entry(str(text), where, _VERL_GLOBS.get(str(text), str(text)), "glob", None, True)
        for text in patterns
    )
    return Rules(source, entries, operands)


def read_torchao(content: Content, source: str) -> Rules:
    """What `config_to_dict` wrote, or a config.json whose quantization_config holds it."""
    config = content.get("quantization_config", content)
    config = _mapping(config, "quantization_config")
    if "quant_type" in config:
        config = _mapping(config["quant_type"], "quant_type")
        config = _mapping(config.get("default", config), "quant_type.default")
    kind = str(config.get("_type", ""))
    if "_data" not in config:
        raise InputError(
            f"{source} is no configuration of torchao", "write one with torchao's config_to_dict"
        )
    if kind not in ("FqnToConfig", "ModuleFqnToConfig"):
        entry = Entry("_default", kind, "_default", "exact", of_torchao(config), False)
        return Rules(source, (entry,))
    data = _mapping(config["_data"], "_data")
    key = "fqn_to_config" if data.get("fqn_to_config") else "module_fqn_to_config"
    entries: list[Entry] = []
    for text, own in _mapping(data.get(key, {}), key).items():
        operands = of_torchao(None if own is None else _mapping(own, f"{key}.{text}"))
        entries += _patterned([text], key, operands, regex="fullmatch", keeps=own is None)
    return Rules(source, tuple(entries))


def read_modelopt(content: Content, source: str) -> Rules:
    """`quant_cfg`, a list of entries or, as it used to be, a mapping."""
    for key in ("quantize", "quant_config"):
        if "quant_cfg" not in content and isinstance(content.get(key), Mapping):
            content = content[key]
    if "quant_cfg" not in content:
        raise InputError(
            f"{source} has no quant_cfg", "write what mtq.quantize takes, as JSON or YAML"
        )
    raw = content["quant_cfg"]
    if isinstance(raw, Mapping):
        raw = [{key: value} for key, value in raw.items()]
    entries = []
    for number, one in enumerate(_names(raw, "quant_cfg")):
        for name, parent, cfg, enable in _quantizers(_mapping(one, f"quant_cfg[{number}]"), source):
            where = f"quant_cfg[{number}]"
            label = _quantizer_label(cfg, where)
            operands = FULL if enable is False else Operands(label) if label else None
            keeps = enable is False
            entries.append(Entry(name, where, name, "glob", operands, keeps, 0, parent))
    # A quantizer that nothing matches is on, with 8 bits for the whole tensor.
    whole = "int8 per tensor"
    return Rules(source, tuple(entries), Operands(whole, whole))


def _quantizers(one: Content, source: str) -> Iterator[tuple[str, str | None, Any, bool | None]]:
    """Name, parent class, attributes and switch of an entry in any of its forms."""
    if "$import" in one:
        raise InputError(
            f"{source} imports {one['$import']}, which only Model Optimizer can look up",
            "write the entries out; modelopt.torch.opt.config_loader.load_config resolves them",
        )
    if "quantizer_name" in one:
        yield str(one["quantizer_name"]), one.get("parent_class"), one.get("cfg"), one.get("enable")
        return
    for key, value in one.items():
        if str(key).startswith("nn."):
            for name, inner in _mapping(value, str(key)).items():
                yield str(name), str(key), inner, _mapping(inner, str(name)).get("enable")
        else:
            enable = value.get("enable") if isinstance(value, Mapping) else None
            yield ("*" if key == "default" else str(key)), None, value, enable


def _quantizer_label(cfg: Any, where: str) -> str | None:
    """The format that attributes say; None where they only switch."""
    several = cfg if isinstance(cfg, list) else [cfg]
    labels = [
        of_modelopt(each)
        for each in several
        if isinstance(each, Mapping) and each.keys() - {"enable"}
    ]
    if any(each is not None and not isinstance(each, Mapping) for each in several):
        raise InputError(f"cfg of {where} is not a mapping", "write attributes of a quantizer")
    return " then ".join(labels) or None


def read_megatron(content: Content, source: str) -> Rules:
    """`configs` and `matchers`; matchers that are not enabled do not exist."""
    if "matchers" not in content:
        raise InputError(f"{source} has no matchers", "write configs and matchers")
    configs = _mapping(content.get("configs") or {}, "configs")
    entries = []
    for name, matcher in _mapping(content["matchers"] or {}, "matchers").items():
        where = f"matchers.{name}"
        if not _mapping(matcher, where).get("enabled", False):
            continue
        kind, pattern, key = (matcher.get(each) for each in ("type", "pattern", "config"))
        if kind != "glob" or not isinstance(pattern, str):
            raise InputError(
                f"{where} has type {kind!r} and pattern {pattern!r}",
                "Megatron-Core knows type glob with a pattern",
            )
        if key not in configs:
            raise InputError(
                f"{where} names config {key!r}", f"configs has: {', '.join(map(str, configs))}"
            )
        operands = _precision(_mapping(configs[key], f"configs.{key}"), str(key))
        entries.append(Entry(pattern, where, pattern, "glob", operands, not operands.quantized))
    return Rules(source, tuple(entries))


def _precision(config: Content, key: str) -> Operands:
    if "training_recipe" not in config:
        return Operands(key, key)
    return of_transformer_engine(_mapping(config["training_recipe"] or {}, "training_recipe"))


READERS: Mapping[str, Callable[[Content, str], Rules]] = {
    "compressed-tensors": read_compressed_tensors,
    "vllm": read_compressed_tensors,
    "llm-compressor": read_llm_compressor,
    "verl": read_verl,
    "verl-megatron": read_verl_megatron,
    "torchao": read_torchao,
    "modelopt": read_modelopt,
    "megatron": read_megatron,
}
"""Consumer -> what reads its files."""
