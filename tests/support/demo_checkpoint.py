"""The demo's config and tensors, to be written in the forms of other tools."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from click.testing import CliRunner

from mlx_gptoss.checkpoint.hub import DEMO, local_folder
from mlx_gptoss.cli import cli
from tests.support.checkpoints import Tensors

QUESTION, ANSWER = "What is 417 + 285?", "702"


def demo_folder() -> Path:
    folder = local_folder(DEMO)
    assert folder is not None
    return folder


def demo_config() -> dict[str, Any]:
    return json.loads((demo_folder() / "config.json").read_text())


def demo_tensors() -> Tensors:
    stored = mx.load(str(demo_folder() / "model.safetensors"))
    assert isinstance(stored, dict)
    return {
        name: np.array(x if x.dtype == mx.uint8 else x.astype(mx.float32))
        for name, x in stored.items()
    }


def with_tokenizer(folder: Path) -> Path:
    """Copy the demo's tokenizer beside its weights in another form."""
    for name in ("tokenizer.json", "generation_config.json"):
        shutil.copy(demo_folder() / name, folder / name)
    return folder


def ask(folder: Path) -> str:
    """Ask a model, greedily, what the demo answers with 702."""
    command = ["generate", "-m", str(folder), "--temperature", "0", QUESTION]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.stderr
    return result.stdout
