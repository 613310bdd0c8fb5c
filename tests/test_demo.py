"""The demo model that ships: small, safe to load, and better than counting pairs of tokens."""

from __future__ import annotations

from pathlib import Path

import torch

import srdd
from srdd.model.checkpoint import find
from srdd.model.load import load_model, load_tokenizer

FOLDER = Path(srdd.__file__).parent / "model" / "demo"
HELD_BACK = '''"""Read and write ZIP files.

This module provides tools to create, read, write, append, and list a file.
"""
import os
import sys

def main(argv=None):
    """Parse the arguments and return the exit code."""
    if argv is None:
        argv = sys.argv[1:]
    for name in argv:
        if not os.path.exists(name):
            raise ValueError("no such file: %r" % (name,))
    return 0


if __name__ == "__main__":
    sys.exit(main())
'''


def test_it_is_at_most_ten_megabytes_and_holds_no_pickle() -> None:
    files = list(FOLDER.iterdir())
    assert sum(file.stat().st_size for file in files) <= 10_000_000
    assert not [file for file in files if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert (FOLDER / "README.md").exists()


def test_it_predicts_python_far_better_than_the_bigram_of_its_card() -> None:
    checkpoint = find("demo")
    model, tokenizer = load_model(checkpoint).model, load_tokenizer(checkpoint)
    ids = torch.tensor([tokenizer(HELD_BACK)["input_ids"]])
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    assert loss < 3.6  # the bigram needs 4.6 nats a token on held-out files
