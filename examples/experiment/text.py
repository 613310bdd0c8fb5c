"""Text that the demo model has not seen: sources of torch, which srdd cannot run without.

The demo model was trained on the standard library of Python. Whole files are held out, about one in
eight by a hash of their names, so that the split is the same on every machine that has the same
release of torch. The fingerprint tells whether two experiments had the same text.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from srdd.errors import InputError

FOLDERS = ("distributions", "nn", "optim", "utils")
"""Of torch: modules and their documentation, without tests and without generated code."""

ONE_IN = 8


@dataclass(frozen=True)
class Text:
    """Tokens to train on and tokens held out.

    Attributes:
        training: token ids (tokens,), each file closed by the end token.
        held_out: the same of the files that are held out.
        facts: where it is from, how many files and tokens, and its fingerprint.
    """

    training: np.ndarray
    held_out: np.ndarray
    facts: dict[str, Any]


def is_held_out(name: str) -> bool:
    """About one file in eight, by its name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % ONE_IN == 0


def read_sources(root: Path, folders: tuple[str, ...]) -> dict[str, str]:
    """Name -> content of the .py files below `folders` of `root`, in order of name.

    Empty files are left out, and so is a file whose content an earlier one has.

    Raises:
        InputError: there is nothing to train on, or nothing to hold out.
    """
    found: dict[str, str] = {}
    contents = set()
    for path in sorted(path for folder in folders for path in (root / folder).rglob("*.py")):
        content = path.read_text(encoding="utf-8", errors="replace")
        if content.strip() and content not in contents:
            contents.add(content)
            found[path.relative_to(root).as_posix()] = content
    if len({is_held_out(name) for name in found}) < 2:
        raise InputError(
            f"{len(found)} files of Python sources in {root} are too few to train on and hold out",
            "name a folder with more of them with --source, or leave that out to use torch's",
        )
    return found


def read_text(tokenizer: Any, source: Path | None, folders: tuple[str, ...] = FOLDERS) -> Text:
    """The text of an experiment.

    Arguments:
        tokenizer: of the model.
        source: a folder with .py files; None for `folders` of torch.
        folders: of torch.

    Raises:
        InputError: too few files.
    """
    root = source or Path(torch.__file__).parent
    files = read_sources(root, (".",) if source else folders)
    kept = [content for name, content in files.items() if not is_held_out(name)]
    held_out = [content for name, content in files.items() if is_held_out(name)]
    whole = hashlib.sha256()
    for name, content in files.items():
        whole.update(f"{name}\0{content}\0".encode())
    training, rest = encode(tokenizer, kept), encode(tokenizer, held_out)
    release = torch.__version__.partition("+")[0]
    where = ", ".join(f"torch/{folder}" for folder in folders)
    facts = {
        "source": "a folder of .py files" if source else f"{where} of torch {release}",
        "fingerprint": whole.hexdigest(),
        "training_files": len(kept),
        "training_tokens": len(training),
        "held_out_files": len(held_out),
        "held_out_tokens": len(rest),
    }
    return Text(training, rest, facts)


def encode(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Texts -> one stream of token ids (tokens,), each text closed by the end token."""
    ids: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        ids.extend(encoding.ids)
        ids.append(tokenizer.eos_token_id)
    return np.array(ids, dtype=np.int64)


def batch_at(ids: np.ndarray, step: int, seed: int, batch: int, context: int) -> torch.Tensor:
    """The windows of one step, (batch, context); they follow from `seed` and `step` alone."""
    starts = np.random.default_rng([seed, step]).integers(0, len(ids) - context, size=batch)
    return torch.from_numpy(np.stack([ids[start : start + context] for start in starts]))


def spread_windows(ids: np.ndarray, context: int, count: int) -> torch.Tensor:
    """`count` windows of `context` tokens, spread evenly over `ids`: (windows, context).

    Fewer where `ids` holds fewer that do not overlap.
    """
    whole = ids[: len(ids) // context * context].reshape(-1, context)
    chosen = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    return torch.from_numpy(whole[chosen])
