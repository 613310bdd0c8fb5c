"""Shared fixtures: a tokenizer without any vocabulary to download, and tiny models."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

# Both are read once, when the Hub's client and torch are imported. Several test processes share the
# cores, and threads that wait busily for each other would slow them down many times over.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import families
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, with ids from 3, after <pad>, <bos> and <eos>; "a" is 67."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: n for n, token in enumerate(["<pad>", "<bos>", "<eos>", *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


@pytest.fixture
def llama() -> nn.Module:
    """A model of three layers that a test may break."""
    return families.new("llama")


@pytest.fixture(scope="session")
def saved_once(
    tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A saved model with its tokenizer; tests that change files take `folder`."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    families.shared("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def folder(saved_once: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own, for a test that breaks it."""
    return Path(shutil.copytree(saved_once, tmp_path / "tiny"))


@pytest.fixture
def hooks_of() -> Callable[[nn.Module], list[str]]:
    """The names of modules that anything is hooked to."""

    def find(model: nn.Module) -> list[str]:
        return [
            name
            for name, module in model.named_modules()
            if module._forward_hooks or module._forward_pre_hooks
        ]

    return find
