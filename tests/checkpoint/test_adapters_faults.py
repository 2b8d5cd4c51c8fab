"""Mistakes with adapters are named in one line: what, where, and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.adapters import open_adapter, write_adapter
from mlx_gptoss.errors import CheckpointError, GptOssError
from mlx_gptoss.format.config import ModelConfig
from tests.support.adapter_files import (
    Tensors,
    all_paths,
    peft_settings,
    peft_tensors,
    random_loras,
    save_adapter,
    unsloth_tensors,
    write_mlx_lm,
    write_peft,
)
from tests.support.checkpoints import hf_config, write_checkpoint

RAW = hf_config(num_hidden_layers=2, vocab_size=41)
CONFIG = ModelConfig.from_dict(RAW)
PEFT = "adapter_model.safetensors"
Q = "model.layers.1.self_attn.q_proj"
LORAS = random_loras(CONFIG, [Q])
KEY = f"base_model.model.{Q}"
ZEROS = np.zeros((3, 3), np.float32)


def message(folder: Path, config: ModelConfig = CONFIG) -> str:
    with pytest.raises(GptOssError) as raised:
        stored = open_adapter(folder, config)
        for _ in stored.updates():
            pass
    text = str(raised.value)
    assert "\n" not in text
    return text


def peft(folder: Path, tensors: Tensors, **settings: Any) -> Path:
    return save_adapter(folder, PEFT, tensors, peft_settings(3, 6, **settings))


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"use_dora": True}, "`use_dora` = True (it is DoRA, which"),
    "modules": ({"modules_to_save": ["lm_head"]}, "it has whole modules of its own"),
    "tokens": ({"trainable_token_indices": [1]}, "it has vocabulary rows of its own"),
    "bias": ({"bias": "all"}, "`bias` = 'all' (it changes biases)"),
    "lora bias": ({"lora_bias": True}, "`lora_bias` = True (it changes biases)"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "changes the model it starts"),
    "kind": ({"peft_type": "IA3"}, "`peft_type` = 'IA3', only LORA adapters are read"),
    "alpha": ({"lora_alpha": "8"}, "`lora_alpha` = '8', expected a number above 0"),
    "nan": ({"lora_alpha": float("nan")}, "`lora_alpha` = nan, expected a number"),
    "rank": ({"r": 8}, "has rank 3, `"),
    "pattern": ({"rank_pattern": {"(": 3}}, "the pattern `(`, which is no regular"),
    "table": ({"alpha_pattern": [1]}, "`alpha_pattern` = [1], expected a table"),
}


@pytest.mark.parametrize(("settings", "said"), SETTINGS.values(), ids=SETTINGS)
def test_settings_that_are_no_plain_lora_are_refused_by_name(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in message(peft(tmp_path, peft_tensors(LORAS), **settings))


TENSORS: dict[str, tuple[Tensors, str]] = {
    "dora": ({f"{KEY}.lora_magnitude_vector.weight": ZEROS[0]}, "belongs to DoRA"),
    "embedding": (
        {"base_model.model.model.embed_tokens.lora_embedding_A": ZEROS},
        "updates the embedding",
    ),
    "embedding, mlx names": (
        {"base_model.model.model.embed_tokens.lora_A.weight": ZEROS},
        "updates the embedding",
    ),
    "rows": (
        {"base_model.model.model.embed_tokens.weight": ZEROS},
        "is a whole vocabulary matrix, perhaps with new rows, which is not read",
    ),
    "head": ({"base_model.model.lm_head.weight": ZEROS}, "is a whole vocabulary"),
    "new rows": (
        {"base_model.model.lm_head.base_layer.weight": ZEROS},
        "this model's head has (41, 192) (new vocabulary rows are not read)",
    ),
    "module": ({f"{KEY}.modules_to_save.weight": ZEROS}, "is a whole module"),
    "bias": ({f"{KEY}.lora_B.bias": ZEROS[0]}, "changes a bias"),
    "other": ({f"{KEY}.lokr_w1": ZEROS}, "is no factor of a LoRA, which is not read"),
    "alone": (
        {f"base_model.model.{Q.replace('q_proj', 'k_proj')}.lora_A.weight": ZEROS},
        "has no B beside it",
    ),
    "llama": (
        {
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": ZEROS,
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": ZEROS,
        },
        "updates `mlp.up_proj`, which this model does not have",
    ),
    "twice": (
        {f"{Q}.lora_A.weight": ZEROS, f"{Q}.lora_B.weight": ZEROS},
        "has shape (3, 3) and its B (3, 3), which do not make an update",
    ),
}


@pytest.mark.parametrize(("more", "said"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_no_low_rank_update_of_the_model_are_refused_by_name(
    more: Tensors, said: str, tmp_path: Path
) -> None:
    text = message(peft(tmp_path, {**peft_tensors(LORAS), **more}))
    assert said in text
    assert any(name in text for name in more)


def test_two_updates_of_one_matrix_are_refused(tmp_path: Path) -> None:
    tensors = peft_tensors(LORAS)
    tensors |= {f"model.{Q}"[6:] + name[len(KEY) :]: x for name, x in tensors.items()}
    assert f"is a second update of `{Q}`" in message(peft(tmp_path, tensors))


def test_another_number_of_layers_is_named(tmp_path: Path) -> None:
    shallow = ModelConfig.from_dict(hf_config(num_hidden_layers=1, vocab_size=41))
    text = message(write_peft(tmp_path, LORAS), shallow)
    assert "is for layer 1, this model has 1: use it with the model it was" in text
    assert "(`openai/gpt-oss-20b`)" in text


@pytest.mark.parametrize("write", [write_peft, write_mlx_lm])
@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"hidden_size": 128}, "which do not make an update of"),
        ({"num_attention_heads": 4}, "256 "),
        ({"num_local_experts": 3}, "3"),
        ({"num_local_experts": 15}, "15"),
    ],
)
def test_other_shapes_are_named(
    write: Callable[..., Path], sizes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    other = ModelConfig.from_dict({**RAW, **sizes})
    folder = write(tmp_path, random_loras(CONFIG, all_paths(CONFIG)))
    text = message(folder, other)
    assert said in text
    assert "use it with the model it was trained on (`openai/gpt-oss-20b`)" in text


def test_a_count_of_experts_that_could_be_another_rank_is_named(
    tmp_path: Path,
) -> None:
    path = "model.layers.0.mlp.experts.down_proj"
    folder = write_peft(tmp_path, random_loras(CONFIG, [path]))
    other = ModelConfig.from_dict({**RAW, "num_local_experts": 15})
    assert "is for 5 experts of rank 3, this model has 15" in message(folder, other)


def test_an_expert_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = "model.layers.0.mlp.experts.down_proj"
    folder = peft(tmp_path, unsloth_tensors(random_loras(CONFIG, [path])))
    other = ModelConfig.from_dict({**RAW, "num_local_experts": 4})
    assert "is for expert 4, this model has 4" in message(folder, other)


def test_a_recorded_config_of_another_model_is_named(tmp_path: Path) -> None:
    stored = open_adapter(write_peft(tmp_path / "one", LORAS), CONFIG)
    write_adapter(dict(stored.updates()), tmp_path / "two", CONFIG, base="owner/mine")
    other = ModelConfig.from_dict({**RAW, "sliding_window": 16})
    text = message(tmp_path / "two", other)
    assert "was trained on a model (`owner/mine`) with another config" in text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_named_with_their_place(
    value: float, tmp_path: Path
) -> None:
    tensors = peft_tensors(LORAS)
    tensors[f"{KEY}.lora_B.weight"][5, 1] = value
    said = (
        f"tensor `{KEY}.lora_B.weight` in `{tmp_path / PEFT}` has a non-finite value "
    )
    try:
        assert f"{said}at (5, 1)" in message(peft(tmp_path, tensors))
    finally:
        tensors[f"{KEY}.lora_B.weight"][5, 1] = 0


@pytest.mark.parametrize("left", [4, 60, 2000])
def test_a_file_cut_short_is_named(left: int, tmp_path: Path) -> None:
    folder = write_peft(tmp_path, LORAS)
    whole = (folder / PEFT).read_bytes()
    (folder / PEFT).write_bytes(whole[:left])
    text = message(folder)
    assert f"`{folder / PEFT}`" in text
    assert "download it again" in text


@pytest.mark.parametrize(("dtype", "name"), [("float64", "F64"), ("int64", "I64")])
def test_values_of_another_dtype_are_named(
    dtype: str, name: str, tmp_path: Path
) -> None:
    tensors = {key: x.astype(dtype) for key, x in peft_tensors(LORAS).items()}
    assert f"has dtype {name}, expected BF16 or F16" in message(peft(tmp_path, tensors))


def test_an_adapter_without_tensors_is_named(tmp_path: Path) -> None:
    assert "has no tensors: save the adapter again" in message(peft(tmp_path, {}))


MLX: dict[str, tuple[dict[str, Any], str]] = {
    "dora": ({"fine_tune_type": "dora"}, "`fine_tune_type` = 'dora' (DoRA, which also"),
    "full": ({"fine_tune_type": "full"}, "`fine_tune_type` = 'full' (no LoRA)"),
    "scale": ({"lora_parameters": {"rank": 3}}, "has no `lora_parameters.scale`"),
    "alpha": ({"lora_parameters": {"scale": -1}}, "= -1, expected a number above 0"),
}


@pytest.mark.parametrize(("settings", "said"), MLX.values(), ids=MLX)
def test_settings_of_mlx_lm_that_are_not_read_are_named(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in message(write_mlx_lm(tmp_path, LORAS, **settings))


def test_doras_vector_of_mlx_lm_is_named(tmp_path: Path) -> None:
    folder = write_mlx_lm(tmp_path, LORAS)
    settings = json.loads((folder / "adapter_config.json").read_text())
    save_adapter(folder, "adapters.safetensors", {f"{Q}.m": ZEROS[0]}, settings)
    assert "belongs to DoRA, which also scales the weights" in message(folder)


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    assert f"is a model, not an adapter: run it with `-m {folder}`" in message(folder)


def test_an_adapter_is_no_model_and_the_message_says_how_to_use_it(
    tmp_path: Path,
) -> None:
    folder = write_peft(tmp_path, LORAS)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(folder)
    assert str(raised.value) == (
        f"`{folder}` is a LORA adapter of PEFT for `openai/gpt-oss-20b`, not a model: "
        f"run its model with it (`mlx-gptoss chat -m openai/gpt-oss-20b -a {folder}`), "
        f"or merge both (`mlx-gptoss merge openai/gpt-oss-20b {folder} DST`)"
    )


def test_folders_without_an_adapter_say_what_to_give(tmp_path: Path) -> None:
    assert "does not exist: give an adapter's folder" in message(tmp_path / "none")
    assert "has no `adapter_config.json`: give the folder of" in message(tmp_path)
    run = tmp_path / "checkpoint-80"
    write_peft(run, LORAS)
    assert f"give one of those in it, such as `{run}`" in message(tmp_path)
    (run / PEFT).rename(run / "adapter_model.bin")
    assert "`adapter_model.bin` is pickled and not read, for safety" in message(run)
    (run / "adapter_model.bin").rename(run / "adapters.safetensors")
    assert "has no `adapter_model.safetensors` but `adapters.saf" in message(run)


def test_weights_without_their_settings_say_what_is_missing(tmp_path: Path) -> None:
    folder = write_peft(tmp_path, LORAS)
    (folder / "adapter_config.json").unlink()
    assert "which has the adapter's scale: copy the one" in message(folder)


def test_settings_that_are_no_json_are_named(tmp_path: Path) -> None:
    folder = write_peft(tmp_path, LORAS)
    (folder / "adapter_config.json").write_text("{")
    assert "is not valid JSON" in message(folder)


def test_a_scale_that_is_no_number_is_refused(tmp_path: Path) -> None:
    folder = write_peft(tmp_path, LORAS)
    with pytest.raises(CheckpointError, match="the scale of an adapter is nan"):
        open_adapter(folder, CONFIG, scale=float("nan"))
