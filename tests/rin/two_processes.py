"""What each of two processes does for test_distributed: `two_processes.py FOLDER`.

It needs RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, and leaves what it found in FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import families
import torch
import torch.distributed as dist
from accelerate import Accelerator
from made_scans import made, rising
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from transformers import Trainer, TrainingArguments

import srdd
from srdd.errors import SrddError
from srdd.rin import RinCallback, noisy

STEP = {"step": 4, "total_steps": 30, "seed": 2}

Found = dict[str, Any]


def model() -> nn.Module:
    """Odd sizes, so that the parts are not equal."""
    return families.new("llama", intermediate_size=97).requires_grad_(True)


def norms() -> srdd.RinConfig:
    return srdd.suggest(made(rising(3)), "variable")


def linears() -> srdd.RinConfig:
    scan = made(rising(3)).model_dump()
    for layer in scan["model"]["layers"]:
        layer["linears"] = [
            {
                "name": f"{layer['name']}.mlp.{name}",
                "type": "Linear",
                "in_features": ins,
                "out_features": outs,
            }
            for name, ins, outs in (("up_proj", 64, 97), ("down_proj", 97, 64))
        ]
    return srdd.suggest(srdd.Scan.model_validate(scan), "uniform", layer_type="linear")


def ids() -> torch.Tensor:
    return torch.arange(3, 23).reshape(2, 10)


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights with all their parts."""
    return {
        name: (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach().clone()
        for name, weight in model.named_parameters()
    }


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids()).logits
    return found


def what_happens(model: nn.Module) -> Found:
    """Weights and outputs under noise and after it, and after an update with it."""
    # Before any forward pass, which leaves some weights gathered. Not Adam, which makes whole steps
    # out of differences in the order of sums.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found: Found = {"clean": whole(model), "clean logits": logits(model)}
    for name, config in (("norms", norms()), ("linears", linears())):
        with noisy(model, config, **STEP) as report:
            # What is computed with the noise is asked first: it must not be gathered from before.
            found[f"{name} logits"] = logits(model)
            found[name] = whole(model)
        found[f"{name} energy"] = report.energy
        found[f"{name} realised"] = report.realised_energy
        found[f"after {name} logits"] = logits(model)
        found[f"after {name}"] = whole(model)

    for step in range(3, 6):
        with noisy(model, norms(), step=step, total_steps=30):
            model(input_ids=ids(), labels=ids()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found["trained"] = whole(model)

    try:
        with noisy(model, norms(), **STEP):
            model(input_ids=ids(), labels=ids()).loss.backward()
            optimizer.step()
    except SrddError as error:
        found["update inside"] = error.message
    found["after update inside"] = whole(model)
    return found


def sharded(mesh: Any) -> Found:
    found = model()
    for index, layer in enumerate(found.model.layers):
        # The last two stay gathered after a forward pass, and would go on with what they gathered.
        fully_shard(layer, mesh=mesh, reshard_after_forward=index == 0)
    fully_shard(found, mesh=mesh)
    return what_happens(found)


def by_columns(mesh: Any) -> Found:
    """Tensor parallel: a linear cut the other way."""
    found = model()
    linear = found.model.layers[0].mlp.down_proj
    linear.weight = nn.Parameter(distribute_tensor(linear.weight.detach(), mesh, [Shard(1)]))
    with noisy(found, linears(), **STEP):
        return {"linears": whole(found)}


def accelerated() -> Found:
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model())
    assert isinstance(prepared, nn.parallel.DistributedDataParallel)
    found = what_happens(prepared)
    return {
        key: {n.removeprefix("module."): w for n, w in value.items()}
        if isinstance(value, dict)
        else value
        for key, value in found.items()
    }


def trained(folder: Path) -> Found:
    inner = model()
    rows = [{"input_ids": row, "labels": row} for row in torch.arange(3, 195).reshape(16, 12)]
    trainer = Trainer(
        model=inner,
        args=TrainingArguments(
            output_dir=str(folder / "trainer"),
            max_steps=4,
            per_device_train_batch_size=2,
            optim="sgd",
            learning_rate=0.01,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=rows,
    )
    energies = []
    with RinCallback(norms()).on(trainer) as noise:
        trainer.train()
        assert noise.last is not None
        energies.append(noise.last.realised_energy)
    assert isinstance(trainer.model_wrapped, nn.parallel.DistributedDataParallel)
    return {"weights": whole(inner), "energies": energies, "log": trainer.state.log_history}


def flattened() -> str:
    old = FullyShardedDataParallel(model(), device_id=torch.device("cpu"), use_orig_params=True)
    try:
        with noisy(old, norms(), **STEP):
            return "nothing"
    except SrddError as error:
        return error.message


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)  # begins the process group, with gloo
    assert (dist.get_backend(), dist.get_world_size()) == ("gloo", 2)
    mesh = init_device_mesh("cpu", (2,))
    found = {
        "sharded": sharded(mesh),
        "by columns": by_columns(mesh),
        "accelerated": accelerated(),
        "trained": trained(folder),
        "flattened": flattened(),
    }
    torch.save(found, folder / f"{accelerator.process_index}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
