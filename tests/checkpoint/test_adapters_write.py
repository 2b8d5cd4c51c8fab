"""Adapters that are written are read back as they were, in both layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from mlx_gptoss.checkpoint.adapters import (
    WeightUpdate,
    open_adapter,
    read_adapter,
    write_adapter,
    write_adapter_files,
)
from mlx_gptoss.checkpoint.adapters.digest import config_digest
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.config import ModelConfig
from tests.support.adapter_files import (
    all_paths,
    delta,
    random_loras,
    write_mlx_lm,
    write_peft,
)
from tests.support.checkpoints import hf_config

CONFIG = ModelConfig.from_dict(hf_config(num_hidden_layers=2, vocab_size=41))
PATHS = all_paths(CONFIG)
LAYOUTS = ("peft", "mlx-lm")


def updates_of(ranks: dict[str, int]) -> dict[str, WeightUpdate]:
    found = {}
    for seed, (path, rank) in enumerate(ranks.items()):
        lora = random_loras(CONFIG, [path], rank=rank, seed=seed)[path]
        found[path] = WeightUpdate(lora.a.swapaxes(-1, -2), lora.b.swapaxes(-1, -2))
    return found


def product(update: WeightUpdate) -> np.ndarray:
    return update.a.astype(np.float64) @ update.b.astype(np.float64)


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    ranks=st.dictionaries(st.sampled_from(PATHS), st.integers(1, 3), min_size=1),
    layout=st.sampled_from(LAYOUTS),
)
def test_what_is_written_is_read_back(
    ranks: dict[str, int], layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    updates = updates_of(ranks)
    write_adapter(updates, folder, CONFIG, layout=layout, base="owner/base")
    stored = open_adapter(folder, CONFIG)
    assert (stored.layout, stored.base) == (layout, "owner/base")
    assert set(stored.paths) == set(updates)
    for path, update in updates.items():
        np.testing.assert_array_equal(product(stored.read(path)), product(update))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_converted_into_each_other_exactly(
    layout: str, tmp_path: Path
) -> None:
    loras = random_loras(CONFIG, PATHS)
    folder = write_peft(tmp_path / "peft", loras, alpha=6)
    for step, to in enumerate((layout, "mlx-lm", "peft")):
        stored = open_adapter(folder, CONFIG)
        folder = tmp_path / str(step)
        write_adapter(dict(stored.updates()), folder, CONFIG, layout=to)
    stored = open_adapter(folder, CONFIG)
    for path, lora in loras.items():
        found = product(stored.read(path)).swapaxes(-1, -2)
        np.testing.assert_allclose(found, delta(lora, 2.0), atol=1e-5)
        assert stored.read(path).rank == 3


def test_an_adapter_of_the_model_is_written(tmp_path: Path) -> None:
    folder = write_mlx_lm(tmp_path / "one", random_loras(CONFIG, PATHS))
    adapter = read_adapter(folder, CONFIG, name="x")
    write_adapter(adapter.updates, tmp_path / "two", CONFIG)
    assert read_adapter(tmp_path / "two", CONFIG, name="y").digest == adapter.digest


def test_peft_gets_patterns_for_other_ranks_and_parameters(tmp_path: Path) -> None:
    layer = "model.layers.0."
    ranks = {
        "model.layers.0.self_attn.q_proj": 2,
        "model.layers.1.self_attn.q_proj": 2,
        f"{layer}mlp.router": 1,
        f"{layer}mlp.experts.gate_up_proj": 3,
        f"{layer}mlp.experts.down_proj": 2,
    }
    write_adapter(updates_of(ranks), tmp_path / "x", CONFIG, base="owner/base")
    found = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert {key: found[key] for key in ("r", "lora_alpha", "target_modules")} == {
        "r": 2,
        "lora_alpha": 2,
        "target_modules": ["self_attn.q_proj"],
    }
    assert found["target_parameters"] == [
        f"{layer}mlp.experts.down_proj",
        f"{layer}mlp.experts.gate_up_proj",
        f"{layer}mlp.router.weight",
    ]
    patterns = {f"{layer}mlp.router.weight": 1, f"{layer}mlp.experts.gate_up_proj": 3}
    assert found["rank_pattern"] == found["alpha_pattern"] == patterns


def test_mlx_lm_gets_one_rank_and_the_layers_from_the_top(tmp_path: Path) -> None:
    ranks = {"model.layers.1.self_attn.q_proj": 2, "model.layers.1.mlp.router": 1}
    write_adapter(updates_of(ranks), tmp_path / "x", CONFIG, layout="mlx-lm")
    found = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert found["num_layers"] == 1
    assert found["lora_parameters"] == {
        "rank": 2,
        "scale": 1.0,
        "dropout": 0.0,
        "keys": ["mlp.router", "self_attn.q_proj"],
    }


def test_the_file_names_its_model_and_what_it_is_told(tmp_path: Path) -> None:
    write_adapter(
        updates_of({"lm_head": 1}),
        tmp_path / "x",
        CONFIG,
        metadata={"trained_on": "mail"},
        texts={"README.md": "# Mine\n"},
    )
    with safe_open(tmp_path / "x" / "adapter_model.safetensors", "numpy") as file:
        assert file.metadata() == {
            "format": "pt",
            "base_config_sha256": config_digest(CONFIG),
            "trained_on": "mail",
        }
    assert (tmp_path / "x" / "README.md").read_text() == "# Mine\n"


def test_files_in_an_existing_folder_are_replaced(tmp_path: Path) -> None:
    for rank in (1, 2):
        write_adapter_files(updates_of({"lm_head": rank}), tmp_path, CONFIG)
    assert open_adapter(tmp_path, CONFIG).read("lm_head").rank == 2


def test_an_existing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="already exists: choose another name"):
        write_adapter(updates_of({"lm_head": 1}), tmp_path, CONFIG)


def test_an_update_of_another_model_is_not_written(tmp_path: Path) -> None:
    other = ModelConfig.from_dict(hf_config(num_hidden_layers=2, vocab_size=40))
    with pytest.raises(CheckpointError, match="`lm_head` with a weight of"):
        write_adapter(updates_of({"lm_head": 1}), tmp_path / "x", other)
    assert list(tmp_path.iterdir()) == [tmp_path / "x.partial"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_no_adapter(layout: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is nothing to write"):
        write_adapter({}, tmp_path / "x", CONFIG, layout=layout)
