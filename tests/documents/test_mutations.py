"""No document, however damaged, ends a command in an internal error or makes it hang.

`python tests/documents/test_mutations.py 2000`, with `tests` on the path, tries 2,000 mutations of
each kind of document and counts how they end; here are fewer, with a fixed seed.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import made_recipes
import numpy as np
import orjson
import pytest
from made_scans import costing, made, prototype, rising, scan_of
from mutations import mutated

from srdd.cli.app import run
from srdd.documents.comparison import Comparison
from srdd.documents.document import Document
from srdd.documents.evaluation import Evaluation
from srdd.documents.recipe import Recipe
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Joint, NoiseCost
from srdd.documents.sensitivity_figures import figure
from srdd.errors import SrddError
from srdd.noise import suggest

EACH = 40
SLOWEST_S = 20.0

OTHER_COMMANDS = ["report x.json"]
"""What is tried with a document that is no scan."""

SCAN_COMMANDS = [
    "report x.json",
    *(
        f"report x.json --as {form} --by {by} --all -o out.{form} --force"
        for form in ("terminal", "markdown", "html", "csv", "json")
        for by in ("layer", "tensor", "kind")
    ),
    "suggest x.json -q",
    "suggest x.json --metric kl -q",
    "suggest x.json --strategy all -o plan --force -q",
    "suggest x.json --metric vs_floor_db --strategy zone --zones breaks -q",
    "compare x.json good.json --fail-on sqnr_db<-0.5",
    "compare good.json x.json --by tensor --as json -o out.json --force",
    "compare x.json x.json --by kind --as markdown",
    "compare x.json good.json --metric kl --fail-on kl>0.1",
    "compare x.json x.json --metric kl --by tensor --as csv -o out.csv --force",
    "merge x.json good.json --repeated -o merged.json --force",
    "merge good.json x.json --repeated -o merged.json --force",
]
"""Two of these are tried with each mutated scan, whether it can be read or not."""


@cache
def documents() -> dict[str, tuple[dict[str, Any], type[Document]]]:
    """A valid document of each kind, with the class that reads it."""
    scan = a_scan()
    config = suggest(made(rising(4)), "zone")
    return {
        "scan": (orjson.loads(scan.to_json()), Scan),
        "sensitivity": (orjson.loads(a_sensitivity().to_json()), Scan),
        "prototype": (prototype(), Scan),
        "rin": (orjson.loads(config.to_json()), RinConfig),
        "recipe": (made_recipes.content(), Recipe),
        "evaluation": (orjson.loads(an_evaluation().to_json()), Evaluation),
        "comparison": (a_comparison(scan), Comparison),
    }


def a_scan() -> Scan:
    """Every site, two formats, several tensors in a layer, four replicates."""
    tensors = {"mlp.up_proj": [18.0, 17.0], "mlp.down_proj": [17.0, 12.0]}
    one = {"mlp.down_proj": [16.0, 11.0]}
    return scan_of(
        {"output": {"output": [19.0, 15.0]}, "input": tensors, "linear": one},
        formats={"mxfp4:floor": 0.0, "nvfp4:token": 1.5},
        prompts=4,
    )


def a_sensitivity() -> Scan:
    """A scan with costs, joint figures, noise and checks."""
    scan = costing([0.01, 0.02, 0.03, 0.05])
    assert scan.sensitivity is not None
    nats = figure(np.array([0.5, 1.5]), np.array(scan.sensitivity.tokens))
    joint = [
        Joint(**nats, scope=scope, name=name, format="mxfp4:floor", operands="both")
        for scope, name in (("all", ""), ("layer", "1"), ("kind", "up"))
    ]
    norm = "model.layers.1.input_layernorm"
    noise = [NoiseCost(**nats, layer=1, tensor=norm, parameter="norm")]
    update = {
        "joint": joint,
        "noise": noise,
        "not_measured": {"lm_head": "not a linear of a layer"},
    }
    return scan.model_copy(update={"sensitivity": scan.sensitivity.model_copy(update=update)})


def an_evaluation() -> Evaluation:
    plain: dict[str, Any] = {
        **dict.fromkeys(("weights", "activations", "loss_difference", "loss_difference_interval")),
        **dict.fromkeys(("kl", "kl_interval", "kl_by_prompt")),
        "noise": False,
        "loss": 2.0,
        "loss_interval": [1.5, 2.5],
        "perplexity": 7.389,
        "perplexity_interval": [4.48, 12.18],
        "loss_by_prompt": [1.5, 2.5],
        "simulated": 0,
        "not_simulated": [],
    }
    quantized = plain | {
        "weights": "mxfp4:floor",
        "loss_difference": 0.1,
        "loss_difference_interval": [0.0, 0.2],
        "kl": 0.05,
        "kl_interval": [0.01, 0.1],
        "kl_by_prompt": [0.01, 0.09],
        "simulated": 7,
    }
    return Evaluation.model_validate(
        {
            "model": {
                **dict.fromkeys(("name", "fingerprint", "architecture", "dtype", "tokenizer"), "x"),
                "source": "hub",
                "revision": None,
                "parameters": 100,
            },
            "text": {
                **{"form": "prompts", "source": "x", "fingerprint": "x", "max_length": None},
                **{"indices": [0, 1], "predicted": [5, 5], "truncated": 0, "left_out": 0},
                "chat_template": False,
            },
            "settings": {"include": [], "exclude": [], "seed": 0, "noise": None},
            "run": {
                **{"versions": {}, "device": "cpu", "batch_size": "auto", "command": None},
                **{"started": "2026-01-01", "elapsed_s": 1.0},
            },
            "results": [plain, quantized],
            "warnings": [],
        }
    )


def a_comparison(scan: Scan) -> dict[str, Any]:
    from srdd.comparison import compare_scans

    document: dict[str, Any] = orjson.loads(compare_scans(scan, scan).to_json())
    return document


def outcome(line: str) -> tuple[int, str]:
    """Exit code and standard error of a command, run in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(line.split())
    err.seek(0)
    return code, err.read()


def problems(kind: str, seed: int) -> Iterator[str]:
    """What goes wrong with one mutated document; nothing where all is well.

    The current folder is written to. Yields `readable` where the document can still be read.
    """
    original, document = documents()[kind]
    content = mutated(original, seed)
    Path("x.json").write_bytes(content)
    lines = random.Random(seed).sample(SCAN_COMMANDS, 2) if document is Scan else OTHER_COMMANDS
    with contextlib.suppress(SrddError):
        read = document.parse(content, "x.json")
        yield "readable"
        assert document.parse(read.to_json(), "again") == read
        use(read)
    for line in lines:
        started = time.monotonic()
        code, err = outcome(line)
        if code not in (0, 1, 2) or "internal error" in err or "Traceback" in err:
            yield f"{kind} {seed}: {line}: {code}: {err[-300:]}"
        if time.monotonic() - started > SLOWEST_S:
            yield f"{kind} {seed}: {line} takes {time.monotonic() - started:.0f} s"


def safely(kind: str, seed: int) -> list[str]:
    try:
        return list(problems(kind, seed))
    except Exception as error:
        return [f"{kind} {seed}: {type(error).__name__}: {error}"]


def use(document: Document) -> None:
    """What a command does with a document after reading it, where that needs a model besides."""
    if isinstance(document, RinConfig):
        Path("rin.json").write_bytes(document.to_json())
        from srdd.cli import noise_options
        from srdd.rin.schedule import sigma_at

        config = noise_options.read("rin.json", 30, 100)
        assert config == document
        for tier in document.tiers:
            sigma_at(tier.schedule, 30, 100)
    elif isinstance(document, Recipe):
        from srdd.reports.recipe_view import layers_table, recipe_blocks
        from srdd.reports.terminal import plain

        plain([*recipe_blocks(document, "recipe.json"), layers_table(document)])
    elif isinstance(document, Evaluation):
        from rich.console import Console

        from srdd.reports.evaluation_view import evaluation_blocks
        from srdd.reports.terminal import render

        Console(file=io.StringIO()).print(*render(evaluation_blocks(document)))


def tried(kind: str, seeds: Iterator[int] | range) -> tuple[int, list[str]]:
    """How many of the mutated documents could be read, and all that went wrong."""
    good = "sensitivity" if kind == "sensitivity" else "scan"
    Path("good.json").write_bytes(orjson.dumps(documents()[good][0]))
    ends = list(itertools.chain.from_iterable(safely(kind, seed) for seed in seeds))
    return ends.count("readable"), [end for end in ends if end != "readable"]


@pytest.mark.parametrize(
    "kind", ["scan", "sensitivity", "prototype", "rin", "recipe", "evaluation", "comparison"]
)
def test_no_mutation_ends_in_an_internal_error(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readable, wrong = tried(kind, range(EACH))
    assert wrong == []
    assert readable >= 2


def main() -> None:
    count = int(sys.argv[1])
    kinds = sys.argv[2:] or list(documents())
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for kind in kinds:
            readable = 0
            for start in range(0, count, 100):
                more, wrong = tried(kind, range(start, min(start + 100, count)))
                readable += more
                report = f"{kind}: {min(start + 100, count)} mutated, {readable} readable"
                sys.stdout.write("\n    ".join([report, *wrong]) + "\n")
                sys.stdout.flush()
        os.chdir("/")


if __name__ == "__main__":
    main()
