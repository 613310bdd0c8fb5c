"""The modules of a checkpoint, from names and shapes alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import families
import made_checkpoints
import pytest
from families import FAMILIES

from srdd.errors import InputError
from srdd.model.inventory import StoredModule, read_inventory
from srdd.model.linears import find_weights
from srdd.model.structure import find_structure
from srdd.recipes.checking.views import stacked


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model of a family, written as transformers writes it."""
    folder = tmp_path_factory.mktemp(request.param)
    families.new(request.param).save_pretrained(folder)
    (folder / "name").write_text(request.param)
    return str(folder)


def test_names_and_roles_agree_with_the_model_in_memory(family: str) -> None:
    """What modules are is found in memory by their types, which a file does not have."""
    model = families.shared(Path(family, "name").read_text())
    structure = find_structure(model)
    inside = {weight.name for weight in find_weights(model, structure)}
    norms = {norm.name for layer in structure.layers for norm in layer.norms}
    outside = {norm.name for norm in structure.other_norms}
    viewed = stacked(read_inventory(family))
    products = ("linear", "expert", "router")
    assert {m.name for m in viewed if m.role in products} == inside
    assert {m.name for m in viewed if m.role == "norm"} == norms | outside
    layers = {w.name: w.layer for w in find_weights(model, structure)}
    assert {m.name: m.layer for m in viewed if m.role in products} == layers


def test_head_and_embedding(family: str) -> None:
    """Each family has one head, whether or not it shares the embedding's weight."""
    model = families.shared(Path(family, "name").read_text())
    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    names = {module: name for name, module in model.named_modules()}
    modules = read_inventory(family).modules
    heads = [m.name for m in modules if m.role == "head"]
    assert heads in ([names[head]], ["embed_out"])  # GPT-NeoX stores it under its old name
    assert names[embedding] in [m.name for m in modules if m.role == "embedding"]


def test_an_index_without_its_files_is_enough(tmp_path: Path) -> None:
    names = made_checkpoints.experts(range(12), 2)
    made_checkpoints.write_checkpoint(tmp_path / "whole", names, layers=range(12))
    whole = read_inventory(str(tmp_path / "whole"))
    tensors = [f"{m.name}.weight" for m in whole.modules]
    (tmp_path / "index").mkdir()
    config = (tmp_path / "whole" / "config.json").read_text()
    (tmp_path / "index" / "config.json").write_text(config)
    index = {"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")}
    (tmp_path / "index" / "model.safetensors.index.json").write_text(json.dumps(index))
    found = read_inventory(str(tmp_path / "index"))
    assert [(m.name, m.role, m.layer) for m in found.modules] == [
        (m.name, m.role, m.layer) for m in whole.modules
    ]
    assert {m.shape for m in found.modules} == {None}
    assert Counter(m.role for m in found.modules) == {
        "expert": 72,
        "linear": 48,
        "norm": 25,
        "router": 12,
        "embedding": 1,
        "head": 1,
    }


def test_layer_2_comes_before_layer_10(tmp_path: Path) -> None:
    model = made_checkpoints.write_checkpoint(
        tmp_path, made_checkpoints.dense(range(11)), layers=range(11)
    )
    layers = [m.layer for m in read_inventory(model).modules if m.role == "linear"]
    assert layers == sorted(layers, key=lambda n: -1 if n is None else n)


def test_stacked_experts_go_by_the_tensor_s_name(tmp_path: Path) -> None:
    shapes = {
        "model.layers.0.mlp.experts.gate_up_proj": (4, 32, 64),
        "model.layers.0.mlp.experts.down_proj": (4, 32, 32),
        "model.layers.0.mlp.experts.gate_up_proj_bias": (4, 64),
        "model.layers.0.mlp.router.weight": (4, 32),
    }
    model = made_checkpoints.write_checkpoint(tmp_path, [], layers=[0], shapes=shapes)
    found = [m for m in read_inventory(model).modules if m.role in ("expert", "router")]
    assert found == [
        StoredModule("model.layers.0.mlp.experts.down_proj", "expert", 0, (4, 32, 32)),
        StoredModule("model.layers.0.mlp.experts.gate_up_proj", "expert", 0, (4, 32, 64)),
        StoredModule("model.layers.0.mlp.router", "router", 0, (4, 32)),
    ]


def test_no_such_model() -> None:
    with pytest.raises(InputError, match="no folder"):
        read_inventory("./nowhere")


def test_a_file_that_was_cut_short(tmp_path: Path) -> None:
    model = made_checkpoints.write_checkpoint(tmp_path, made_checkpoints.dense([0]), layers=[0])
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut short"):
        read_inventory(model)
