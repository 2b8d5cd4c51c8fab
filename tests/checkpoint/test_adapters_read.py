"""Adapters of PEFT, mlx-lm and Unsloth become the updates that they describe."""

import json
from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint.adapters import (
    StoredAdapter,
    is_adapter_folder,
    open_adapter,
    read_adapter,
)
from mlx_gptoss.checkpoint.adapters.digest import config_digest
from mlx_gptoss.checkpoint.adapters.settings import PeftSettings
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.adapters import LowRank
from mlx_gptoss.model.adapters.adapter import updates_digest
from tests.support.adapter_files import (
    Lora,
    Tensors,
    all_paths,
    delta,
    peft_settings,
    peft_tensors,
    random_loras,
    save_adapter,
    unsloth_tensors,
    write_mlx_lm,
    write_peft,
)
from tests.support.checkpoints import hf_config, save_tensors, to_bfloat16

DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
RAW = hf_config(num_hidden_layers=2)
CONFIG = ModelConfig.from_dict(RAW)
SQUARE = ModelConfig.from_dict(hf_config(intermediate_size=192, num_hidden_layers=2))
PEFT = "adapter_model.safetensors"
ROUNDING = 1e-6  # of products in float32, against float64


def product(stored: StoredAdapter, path: str) -> np.ndarray:
    """Return what a weight gains from an update, in float64."""
    update = stored.read(path)
    a, b = update.a.astype(np.float64), update.b.astype(np.float64)
    return (a @ b).swapaxes(-1, -2)


def check(stored: StoredAdapter, loras: Mapping[str, Lora], scale: float) -> None:
    assert set(stored.paths) == set(loras)
    for path, lora in loras.items():
        expected = delta(lora, scale)
        np.testing.assert_allclose(
            product(stored, path), expected, atol=ROUNDING * np.abs(expected).max()
        )


@pytest.mark.parametrize("config", [CONFIG, SQUARE], ids=["", "hidden = intermediate"])
def test_every_matrix_of_pefts_layout_is_read(
    config: ModelConfig, tmp_path: Path
) -> None:
    loras = random_loras(config, all_paths(config))
    folder = write_peft(tmp_path, loras, alpha=6)
    check(open_adapter(folder, config), loras, 2.0)


@pytest.mark.parametrize("name", ["gate_up_proj", "down_proj"])
def test_shapes_tell_which_experts_pefts_names_mean(name: str, tmp_path: Path) -> None:
    loras = random_loras(SQUARE, [f"model.layers.1.mlp.experts.{name}"])
    assert list(peft_tensors(loras)) == [
        f"base_model.model.model.layers.1.mlp.experts.lora_{x}.weight" for x in "AB"
    ]
    check(open_adapter(write_peft(tmp_path, loras), SQUARE), loras, 2.0)


def test_experts_that_peft_took_for_transposed_are_read(tmp_path: Path) -> None:
    loras = random_loras(SQUARE, [x for x in all_paths(SQUARE) if "experts" in x])
    turned = {}
    for path, lora in loras.items():  # PEFT's A has the outputs, its B the inputs
        turned[path] = Lora(lora.b.swapaxes(1, 2), lora.a.swapaxes(1, 2))
    folder = write_peft(tmp_path, turned, alpha=6)
    check(open_adapter(folder, SQUARE), loras, 2.0)


def test_every_matrix_of_mlx_lms_layout_is_read(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, all_paths(CONFIG))
    stored = open_adapter(write_mlx_lm(tmp_path, loras, scale=3.5), CONFIG)
    check(stored, loras, 3.5)
    assert stored.read("model.layers.0.mlp.experts.gate_up_proj").rank == 3


def test_gate_and_up_trained_apart_become_one_update(tmp_path: Path) -> None:
    path = "model.layers.0.mlp.experts.gate_up_proj"
    loras = random_loras(CONFIG, [path], seed=1)
    folder = write_mlx_lm(tmp_path, loras, scale=1.0)
    gate = random_loras(CONFIG, [path], seed=2)[path]
    tensors = {
        f"{path.replace('gate_up', 'gate')}.lora_a": gate.a,
        f"{path.replace('gate_up', 'gate')}.lora_b": gate.b[:, 0::2],
        f"{path.replace('gate_up', 'up')}.lora_a": loras[path].a,
        f"{path.replace('gate_up', 'up')}.lora_b": loras[path].b[:, 1::2],
    }
    save_tensors32(folder / "adapters.safetensors", tensors)
    expected = delta(loras[path])
    expected[:, 0::2] = delta(gate)[:, 0::2]
    stored = open_adapter(folder, CONFIG)
    np.testing.assert_allclose(product(stored, path), expected, atol=1e-6)
    assert stored.read(path).rank == 6


def test_one_half_of_gate_up_leaves_the_other_as_it_is(tmp_path: Path) -> None:
    path = "model.layers.0.mlp.experts.gate_up_proj"
    lora = random_loras(CONFIG, [path])[path]
    folder = write_mlx_lm(tmp_path, {path: lora}, scale=1.0)
    up = path.replace("gate_up", "up")
    save_tensors32(
        folder / "adapters.safetensors",
        {f"{up}.lora_a": lora.a, f"{up}.lora_b": lora.b[:, 1::2]},
    )
    expected = delta(lora)
    expected[:, 0::2] = 0
    found = product(open_adapter(folder, CONFIG), path)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def save_tensors32(path: Path, tensors: Tensors) -> None:
    save_adapter(
        path.parent,
        path.name,
        {name: np.ascontiguousarray(x) for name, x in tensors.items()},
        json.loads((path.parent / "adapter_config.json").read_text()),
    )


def test_unsloths_names_are_read(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, all_paths(CONFIG))
    folder = save_adapter(tmp_path, PEFT, unsloth_tensors(loras), peft_settings(3, 3))
    check(open_adapter(folder, CONFIG), loras, 1.0)


def test_experts_without_an_update_of_their_own_stay_as_they_are(
    tmp_path: Path,
) -> None:
    path = "model.layers.0.mlp.experts.down_proj"
    loras = random_loras(CONFIG, [path])
    tensors = unsloth_tensors(loras)
    kept = {name: x for name, x in tensors.items() if "down_projs.3." in name}
    folder = save_adapter(tmp_path, PEFT, kept, peft_settings(3, 3))
    expected = np.zeros_like(delta(loras[path]))
    expected[3] = delta(loras[path])[3]
    found = product(open_adapter(folder, CONFIG), path)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.removeprefix("base_model.model."),
        lambda name: name.replace("base_model.model.model.", "base_model.model."),
        lambda name: name.replace("lora_A.weight", "lora_A.default.weight"),
        lambda name: name.replace(".lora", ".base_layer.lora"),
    ],
    ids=["no prefix", "no head", "named adapter", "wrapped"],
)
def test_other_spellings_of_pefts_names_are_read(rename, tmp_path: Path) -> None:
    loras = random_loras(CONFIG, ["model.layers.1.self_attn.q_proj"])
    tensors = {rename(name): x for name, x in peft_tensors(loras).items()}
    folder = save_adapter(tmp_path, PEFT, tensors, peft_settings(3, 3))
    check(open_adapter(folder, CONFIG), loras, 1.0)


def test_a_copy_of_the_head_beside_its_update_is_not_read(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, ["lm_head"])
    tensors = peft_tensors(loras)
    tensors["base_model.model.lm_head.base_layer.weight"] = np.zeros(
        (CONFIG.vocab_size, CONFIG.hidden_size), np.float32
    )
    folder = save_adapter(tmp_path, PEFT, tensors, peft_settings(3, 3))
    check(open_adapter(folder, CONFIG), loras, 1.0)


def test_bfloat16_tensors_are_read(tmp_path: Path) -> None:
    path = "model.layers.0.self_attn.o_proj"
    lora = random_loras(CONFIG, [path])[path]
    loras = {path: Lora(to_bfloat16(lora.a), to_bfloat16(lora.b))}
    folder = write_peft(tmp_path, loras, alpha=3)
    save_tensors(folder / PEFT, peft_tensors(loras))
    check(open_adapter(folder, CONFIG), loras, 1.0)


def test_ranks_and_alphas_follow_their_patterns(tmp_path: Path) -> None:
    layer = "model.layers.0."
    q, k = f"{layer}self_attn.q_proj", f"{layer}self_attn.k_proj"
    down, router = f"{layer}mlp.experts.down_proj", f"{layer}mlp.router"
    loras = {
        **random_loras(CONFIG, [q, router], rank=4),
        **random_loras(CONFIG, [k], rank=2),
        **random_loras(CONFIG, [down], rank=1),
    }
    folder = save_adapter(
        tmp_path,
        PEFT,
        peft_tensors(loras),
        peft_settings(
            4,
            8,
            rank_pattern={"k_proj": 2, "mlp.experts.down_proj": 1},
            alpha_pattern={
                r"model.layers.\d+.self_attn.k_proj": 3,
                "router.weight": 20,
            },
        ),
    )
    stored = open_adapter(folder, CONFIG)
    for path, scale in ((q, 2.0), (k, 1.5), (down, 8.0), (router, 5.0)):
        expected = delta(loras[path], scale)
        np.testing.assert_allclose(product(stored, path), expected, atol=1e-5)


def test_rslora_divides_by_the_root_of_the_rank(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, all_paths(CONFIG), rank=4)
    folder = write_peft(tmp_path, loras, alpha=6, use_rslora=True)
    check(open_adapter(folder, CONFIG), loras, 3.0)


@settings(max_examples=200)
@given(
    rank=st.integers(1, 64),
    alpha=st.floats(0.01, 1e4),
    rslora=st.booleans(),
)
def test_a_scale_is_alpha_over_the_rank_or_its_root(
    rank: int, alpha: float, rslora: bool
) -> None:
    raw = peft_settings(rank, alpha, use_rslora=rslora)
    found = PeftSettings.from_dict(raw, Path("x")).scale(("lm_head",), rank)
    assert found == pytest.approx(alpha / (rank**0.5 if rslora else rank))


def test_the_scale_given_multiplies_the_updates(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, all_paths(CONFIG))
    folder = write_peft(tmp_path, loras, alpha=3)
    check(open_adapter(folder, CONFIG, scale=-0.25), loras, -0.25)


def test_the_file_of_an_adapter_means_its_folder(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, ["lm_head"])
    folder = write_peft(tmp_path, loras, alpha=3)
    check(open_adapter(folder / PEFT, CONFIG), loras, 1.0)
    assert is_adapter_folder(folder)


def test_the_digest_of_a_config_stays() -> None:
    """Adapters that were saved would else belong to no model."""
    config = ModelConfig.from_dict(json.loads((DEMO / "config.json").read_text()))
    assert config_digest(config) == (
        "f6a8bd3948f2ba6f1a2d066b4d81c377bbcf0a7376b38c557406591c28354f2a"
    )


def test_an_adapter_for_the_model_has_the_same_updates_and_digest(
    tmp_path: Path,
) -> None:
    loras = random_loras(CONFIG, all_paths(CONFIG))
    folder = write_peft(tmp_path, loras, alpha=6)
    stored = open_adapter(folder, CONFIG, scale=0.5)
    adapter = read_adapter(folder, CONFIG, name="mine", scale=0.5)
    assert adapter.name == "mine"
    assert adapter.digest == stored.digest
    assert adapter.digest == updates_digest(adapter.updates, config_digest(CONFIG))
    for path, update in adapter.updates.items():
        assert isinstance(update, LowRank)
        assert update.a.dtype == update.b.dtype == mx.float32
        np.testing.assert_array_equal(np.array(update.a), stored.read(path).a)
        np.testing.assert_array_equal(np.array(update.b), stored.read(path).b)


def test_digests_differ_by_scale_by_update_and_by_model(tmp_path: Path) -> None:
    loras = random_loras(CONFIG, ["lm_head"])
    folder = write_peft(tmp_path / "one", loras)
    other = write_peft(tmp_path / "two", random_loras(CONFIG, ["lm_head"], seed=1))
    wide = ModelConfig.from_dict({**RAW, "sliding_window": 16})
    digests = [
        open_adapter(folder, CONFIG).digest,
        open_adapter(folder, CONFIG, scale=2.0).digest,
        open_adapter(other, CONFIG).digest,
        open_adapter(folder, wide).digest,
    ]
    assert len(set(digests)) == 4
    assert open_adapter(folder, CONFIG).digest == digests[0]
