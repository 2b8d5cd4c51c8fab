"""openai/privacy-filter's architecture: logits are transformers', chunk or no chunk."""

import importlib.util
import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import load_classifier, open_checkpoint
from mlx_gptoss.errors import CheckpointError, ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.device import forced_gpu_paths
from mlx_gptoss.model.token_classifier import TokenClassifier
from tests.support.checkpoints import write_checkpoint
from tests.support.privacy_filters import filter_config, write_filter
from tests.support.torch_filter import CASES, GOLDEN, ids_of, run_in_torch

GOLDENS = json.loads(GOLDEN.read_text())["logits"]
CLOSE = 1e-4


def load(folder: Path) -> TokenClassifier:
    return load_classifier(open_checkpoint(folder, classifier=True), dtype=mx.float32)


def logits(model: TokenClassifier, ids: list[int]) -> np.ndarray:
    return np.array(model(mx.array([ids]))[0])


def load_case(name: str, folder: Path) -> TokenClassifier:
    overrides, seed, _ = CASES[name]
    return load(write_filter(folder, seed=seed, **overrides))


@pytest.mark.parametrize("name", CASES)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = load_case(name, tmp_path)
    found = logits(model, ids_of(name))
    golden = np.array(GOLDENS[name])
    np.testing.assert_allclose(found, golden, atol=CLOSE)
    assert np.abs(golden).max() > 1  # they say something
    with forced_gpu_paths():
        np.testing.assert_allclose(logits(model, ids_of(name)), golden, atol=CLOSE)


@pytest.mark.soak
@pytest.mark.parametrize("name", CASES)
def test_transformers_still_says_what_the_golden_file_does(name: str) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: see tests/support/torch_filter.py")
    np.testing.assert_allclose(run_in_torch(name), GOLDENS[name], atol=1e-5)


def test_packed_texts_do_not_see_each_other(tmp_path: Path) -> None:
    model = load_case("odd sizes", tmp_path)
    ids = ids_of("odd sizes")
    texts = [ids[:1], ids[1:20], ids[20:22], ids[22:]]
    lengths = [len(text) for text in texts]
    packed = np.array(model(mx.array([ids]), lengths)[0])
    alone = np.concatenate([logits(model, text) for text in texts])
    np.testing.assert_allclose(packed, alone, atol=5e-5)


def test_a_token_reaches_as_far_as_layers_times_band(tmp_path: Path) -> None:
    model = load_case("odd sizes", tmp_path)
    ids, reach = ids_of("odd sizes"), model.config.reach
    assert reach == 3 * 7
    before = logits(model, ids)
    ids[30] = (ids[30] + 1) % 301
    changed = np.abs(logits(model, ids) - before).max(axis=1)
    assert changed[30 - reach : 30 + reach + 1].min() > 0
    assert changed[: 30 - reach].max() == changed[30 + reach + 1 :].max() == 0


def test_each_kind_of_model_is_refused_where_the_other_is_needed(
    tmp_path: Path,
) -> None:
    folder = write_filter(tmp_path / "filter")
    with pytest.raises(ConfigError, match=r"token classifier.*mlx-gptoss redact -m"):
        open_checkpoint(folder)
    with pytest.raises(ConfigError, match=r"language model.*openai/privacy-filter"):
        open_checkpoint(write_checkpoint(tmp_path / "model"), classifier=True)


def test_labels_default_to_the_published_ones() -> None:
    config = filter_config()
    own = ModelConfig.from_dict(config)
    assert len(own.labels) == 33 and own.is_classifier
    del config["id2label"]
    assert ModelConfig.from_dict(config, strict=True).labels == own.labels


@pytest.mark.parametrize("names", [{}, {"1": "O"}, {"0": "O", "1": "O"}, {"0": 3}, 7])
def test_labels_that_name_nothing_are_refused(names: object) -> None:
    with pytest.raises(ConfigError, match="id2label"):
        ModelConfig.from_dict(filter_config() | {"id2label": names})


def test_a_head_of_another_size_and_a_missing_one_are_named(tmp_path: Path) -> None:
    write_filter(tmp_path)
    config = filter_config(labels=["O", "B-x", "I-x"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"score\.weight.*\(3, 40\)"):
        open_checkpoint(tmp_path, classifier=True)
