"""Errors for missing or damaged files of a checkpoint name fault and remedy."""

import json
from pathlib import Path

import pytest

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub import is_complete
from mlx_gptoss.errors import CheckpointError
from tests.support import checkpoints, layout_writers
from tests.support.faulty_checkpoints import (
    CONFIG,
    TENSORS,
    edit_index,
    hf,
    message,
)

# Files and folders


def test_nothing_there(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    assert message(tmp_path, absent) == (
        "`FOLDER/absent` does not exist: give a checkpoint's folder"
    )


def test_folder_without_config(tmp_path: Path) -> None:
    assert message(tmp_path) == (
        "`FOLDER` has no `config.json`: give a checkpoint's folder"
    )


def test_folder_without_weights(tmp_path: Path) -> None:
    (hf(tmp_path) / "model.safetensors").unlink()
    assert message(tmp_path) == (
        "`FOLDER` has no `*.safetensors`: download the weights"
    )


def test_folder_with_pickled_weights_only(tmp_path: Path) -> None:
    (hf(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert message(tmp_path) == (
        "`FOLDER` has no `*.safetensors` but `*.bin`: pickled weights and model.bin "
        "are not read, for safety; download the safetensors files"
    )


def test_file_of_another_kind(tmp_path: Path) -> None:
    gguf = tmp_path / "gpt-oss.gguf"
    gguf.write_bytes(b"GGUF")
    assert message(tmp_path, gguf) == (
        "cannot load `FOLDER/gpt-oss.gguf`: a GGUF is converted first (`mlx-gptoss "
        "convert SRC DST`); give a folder"
    )


def test_single_file_without_config(tmp_path: Path) -> None:
    hf(tmp_path)
    (tmp_path / "config.json").unlink()
    assert message(tmp_path, tmp_path / "model.safetensors") == (
        "`FOLDER/model.safetensors` has no `config.json` beside it: give a "
        "checkpoint's folder"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "`FOLDER/config.json` is not valid JSON (Expecting property name"),
        (
            "[]",
            "`FOLDER/config.json` is not a JSON object but list: take the "
            "`config.json` that was saved with these weights",
        ),
        ('{"a": 1, "b', "): the file is cut short, download it again"),
        ("", "): the file is cut short, download it again"),
        ('{"a": 1,, "b": 2}', "): correct it there, or take the one saved with"),
        ('{"a": 1} more', "): correct it there, or take the one saved with"),
        ("<!DOCTYPE html>", "`FOLDER/config.json` is a web page, which a server"),
        ("version https://git-lfs", "`FOLDER/config.json` is a Git LFS pointer"),
        ("\0" * 80, "`FOLDER/config.json` begins with zeros, as a download that"),
        ("\xff", "`FOLDER/config.json` is not valid JSON ("),
        ("[" * 200_000, "`FOLDER/config.json` is not valid JSON (maximum"),
    ],
)
def test_corrupt_config(text: str, says: str, tmp_path: Path) -> None:
    hf(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    assert says in message(tmp_path)


def test_corrupt_generation_config(tmp_path: Path) -> None:
    hf(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "two"}')
    assert message(tmp_path) == (
        "`generation_config.json` has `eos_token_id` = 'two', expected token ids"
    )


# Shards and their index


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    layout_writers.write_sharded(tmp_path, CONFIG, TENSORS)
    return tmp_path


def test_missing_shard(sharded: Path) -> None:
    (sharded / "model-00001-of-00002.safetensors").unlink()
    assert message(sharded) == (
        "shard `FOLDER/model-00001-of-00002.safetensors` is missing (3 are needed): "
        "download it"
    )


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/x.safetensors",
        "a/b.safetensors",
        "..",
        "x.bin",
        3,
    ],
)
def test_index_naming_something_else_than_a_file_beside_it(
    shard: object, sharded: Path
) -> None:
    edit_index(sharded, lambda weight_map: weight_map.update({"lm_head.weight": shard}))
    assert message(sharded) == (
        "`FOLDER/model.safetensors.index.json` places tensor `lm_head.weight` in "
        f"{shard!r}, expected the name of a safetensors file in the same folder: do "
        "not use this checkpoint"
    )


def test_index_without_a_map(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    assert message(sharded) == (
        "`FOLDER/model.safetensors.index.json` has no `weight_map`, so it is no "
        "index: remove it, the files themselves are read"
    )


def test_corrupt_index(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").write_text("nonsense")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        open_checkpoint(sharded)


def test_index_placing_a_tensor_in_the_wrong_shard(sharded: Path) -> None:
    wrong = "model-00002-of-00002.safetensors"
    edit_index(sharded, lambda weight_map: weight_map.update({"lm_head.weight": wrong}))
    assert open_checkpoint(sharded).notes == (
        "tensor `lm_head.weight` is in `model-00000-of-00002.safetensors`, "
        f"`{sharded}/model.safetensors.index.json` says `{wrong}`: the files "
        "themselves are read",
    )


def test_index_naming_a_tensor_no_shard_has(sharded: Path) -> None:
    shard = "model-00000-of-00002.safetensors"
    edit_index(sharded, lambda weight_map: weight_map.update({"x": shard}))
    assert open_checkpoint(sharded).notes == (
        f"tensor `x` is nowhere, `{sharded}/model.safetensors.index.json` says "
        f"`{shard}`: the files themselves are read",
    )


def test_index_naming_a_tensor_of_the_model_no_shard_has(sharded: Path) -> None:
    shard = sharded / "model-00001-of-00002.safetensors"
    kept = sorted(TENSORS)[1::3]
    checkpoints.save_tensors(shard, {name: TENSORS[name] for name in kept[1:]})
    assert message(sharded) == (
        f"tensor `{kept[0]}` is nowhere, `FOLDER/model.safetensors.index.json` says "
        f"`{shard.name}`: that file and the index are of different saves, take both "
        "from one, or remove the index if it is another model's"
    )


def test_index_of_other_files_beside_a_whole_model(sharded: Path) -> None:
    for path in sharded.glob("*.safetensors"):
        path.unlink()
    checkpoints.save_tensors(sharded / "model.safetensors", TENSORS)
    assert open_checkpoint(sharded).notes == (
        "`model.safetensors.index.json` names files that are not here: not read",
    )
    assert is_complete(sharded)


def test_tensor_in_two_shards(tmp_path: Path) -> None:
    hf(tmp_path)
    again = {"lm_head.weight": TENSORS["lm_head.weight"]}
    checkpoints.save_tensors(tmp_path / "model-again.safetensors", again)
    assert message(tmp_path) == (
        "tensor `lm_head.weight` is in `model-again.safetensors` and again in "
        "`model.safetensors` of `FOLDER`: remove the file that does not belong there"
    )


def test_truncated_shard(sharded: Path) -> None:
    path = sharded / "model-00001-of-00002.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-100])
    assert message(sharded) == (
        f"`FOLDER/model-00001-of-00002.safetensors` has {len(raw) - 100} bytes, its "
        f"header expects {len(raw)}: the file is cut short, download it again"
    )


def test_dtypes_json_that_disagrees(tmp_path: Path) -> None:
    layout_writers.write_original(tmp_path, CONFIG, TENSORS)
    dtypes = {"embedding.weight": "FP4"}
    (tmp_path / "dtypes.json").write_text(json.dumps(dtypes))
    assert message(tmp_path) == (
        "tensor `embedding.weight` in `model.safetensors` has dtype BF16, "
        "`FOLDER/dtypes.json` says 'FP4': it belongs to other weights (these were "
        "converted since, or are another model's), remove it"
    )
    (tmp_path / "dtypes.json").unlink()
    assert open_checkpoint(tmp_path).config.num_hidden_layers == 2


def test_the_advice_on_an_index_without_a_map_works(sharded: Path) -> None:
    (sharded / "model.safetensors.index.json").unlink()
    assert open_checkpoint(sharded).config.num_hidden_layers == 2
