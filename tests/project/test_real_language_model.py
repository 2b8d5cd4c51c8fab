"""The example that makes a real language model: by hand with `-m soak`, needs `gguf`
from PyPI and the network (or pip's mirror)."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from examples.real_language_model.perplexity import LATER_HALF, WINDOW, perplexity
from examples.real_language_model.quality import (
    convert_all,
    measure_all,
    result_rows,
    table,
)
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss_convert.measure.texts import fully_scored
from tests.support.checkpoints import write_checkpoint

ROOT = Path(__file__).parents[2]
SAME_MODEL = 1.03  # the forms agree within 3 % where experts are bfloat16
MXFP4_COST = 1.6  # a model that was not trained in MXFP4


def run(module: str, *arguments: str) -> str:
    command = [sys.executable, "-m", f"examples.real_language_model.{module}"]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_perplexity_explains_itself() -> None:
    assert "--original" in run("perplexity", "--help")


def test_perplexity_of_a_uniform_guess_is_the_vocabulary() -> None:
    ids = list(range(50)) * 30
    found, count = perplexity(lambda w: np.zeros((len(w), 50)), ids, first=0)
    assert (round(found, 9), count) == (50, len(ids) // WINDOW * WINDOW)


def test_perplexity_predicts_the_next_token() -> None:
    ids = [7, *range(WINDOW - 1)]

    def knows(window: list[int]) -> np.ndarray:
        assert window == [1, *ids[:-1]]
        return np.eye(WINDOW, dtype=np.float32)[ids] * 100

    assert perplexity(knows, ids, first=1)[0] == pytest.approx(1)


def test_the_later_half_counts_as_llama_cpp_counts() -> None:
    ids = list(range(WINDOW))

    def knows_the_later_half(window: list[int]) -> np.ndarray:
        logits = np.zeros((WINDOW, WINDOW), np.float32)
        logits[LATER_HALF:] = np.eye(WINDOW, dtype=np.float32)[LATER_HALF:] * 100
        return logits

    found, count = perplexity(knows_the_later_half, ids, first=0, start=LATER_HALF)
    assert (found, count) == (pytest.approx(1), 255)


@pytest.mark.soak
def test_the_forms_agree_with_the_original(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from examples.real_language_model.build import fetch  # noqa: PLC0415 - gguf

    gguf = str(fetch(tmp_path))
    found = [float(run("perplexity", "--original", gguf).split()[1])]
    for form in ("bf16", "mxfp4"):
        folder = str(tmp_path / form)
        run("build", folder, "--gguf", gguf, "--experts", form)
        found.append(float(run("perplexity", folder).split()[1]))
    original, bf16, mxfp4 = found
    assert original / SAME_MODEL < bf16 < original * SAME_MODEL
    assert bf16 < mxfp4 < bf16 * MXFP4_COST


def test_the_quality_table_measures_every_recipe(tmp_path: Path) -> None:
    source = open_checkpoint(write_checkpoint(tmp_path / "source", num_hidden_layers=2))
    made = convert_all(source, tmp_path / "work")
    assert list(convert_all(source, tmp_path / "work")) == list(made)  # kept
    draw = np.random.default_rng(3)
    texts = [fully_scored(draw.integers(0, 301, 40).tolist())]
    found = dict(zip(made, measure_all(source, made, texts), strict=True))
    assert (found["lossless"].kl, found["lossless"].flips) == (0, 0)
    assert 0 < found["q8"].kl < found["q6"].kl < found["q4"].kl
    assert found["q8"].kl < found["q8 --expert-bits 3"].kl
    lines = table(result_rows(source, made, list(found.values()))).splitlines()
    assert lines[3].startswith("| `lossless` | 1.3 MB | 0.0000 | 0.000 | 0.0% | 100.0%")
    assert len(lines) == 8
