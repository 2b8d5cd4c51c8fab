"""Loading bytes from files into MLX's memory."""

import json
import math
import os
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import (
    Checkpoint,
    load_model,
    load_parameters,
    open_checkpoint,
)
from mlx_gptoss.checkpoint.matching import matrix_specs
from mlx_gptoss.checkpoint.tensor_reads import CHUNK_BYTES
from mlx_gptoss.errors import CheckpointError, MemoryBudgetError
from mlx_gptoss.format.config import MXFP4, ModelConfig
from mlx_gptoss.format.dtypes import bfloat16_to_float32, float32_to_bfloat16
from mlx_gptoss.format.layout import DTYPE_BYTES, EXPERTS, HF, matrices, vectors
from mlx_gptoss.model.buffers import empty
from tests.support import checkpoints, layout_writers

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
DTYPES = [mx.float32, mx.bfloat16]


def small(folder: Path, *, vocab_size: int = 301) -> Checkpoint:
    config = checkpoints.hf_config(**SMALL, vocab_size=vocab_size)
    tensors = checkpoints.random_tensors(config)
    return open_checkpoint(checkpoints.write_folder(folder, config, tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", [np.uint16, np.float16, np.float32])
def test_floats_are_cast_as_mlx_casts_them(
    stored: type, dtype: mx.Dtype, tmp_path: Path
) -> None:
    config = checkpoints.hf_config(**SMALL)
    tensors = checkpoints.random_tensors(config)
    if stored != np.uint16:  # values that bfloat16 has to round
        tensors["model.norm.weight"] = np.float32(0.1) + tensors["model.norm.weight"]
    seen = layout_writers.write_dense(tmp_path, config, tensors, dtype=stored)
    weights = load_parameters(open_checkpoint(tmp_path), dtype=dtype)
    norm = mx.array(seen["model.norm.weight"]).astype(dtype)
    assert weights["model.norm.weight"].dtype == dtype
    assert mx.array_equal(weights["model.norm.weight"], norm)


@pytest.mark.parametrize("dtype", DTYPES)
def test_qkv_rows_follow_each_other(dtype: mx.Dtype, tmp_path: Path) -> None:
    config = checkpoints.hf_config(**SMALL)
    tensors = checkpoints.random_tensors(config, seed=5)
    layout_writers.write_hf(tmp_path, config, tensors)
    weights = load_parameters(open_checkpoint(tmp_path), dtype=dtype)
    layer = "model.layers.1.self_attn."
    rows = np.concatenate([tensors[f"{layer}{x}_proj.weight"] for x in "qkv"])
    fused = weights[f"{layer}qkv_proj.weight"]
    assert mx.array_equal(fused.astype(mx.float32), mx.array(rows))


def test_blocks_lie_in_memory_as_in_the_file(tmp_path: Path) -> None:
    config = checkpoints.hf_config(**SMALL)
    tensors = checkpoints.random_tensors(config, seed=5)
    layout_writers.write_hf(tmp_path, config, tensors)
    weights = load_parameters(open_checkpoint(tmp_path), dtype=mx.bfloat16)
    experts = "model.layers.0.mlp.experts.down_proj"
    words = weights[f"{experts}.weight"]
    found = (words.shape, words.dtype, np.array(words).tobytes())
    blocks = tensors[f"{experts}_blocks"].tobytes()
    assert found == ((5, 192, 12), mx.uint32, blocks)


def test_tensors_longer_than_a_chunk_are_whole(tmp_path: Path) -> None:
    checkpoint = small(tmp_path, vocab_size=23_001)
    tensors = checkpoints.random_tensors(checkpoint.raw_config)
    embedding = tensors["model.embed_tokens.weight"]
    assert checkpoint.tensors["model.embed_tokens.weight"].nbytes > CHUNK_BYTES
    weights = load_parameters(checkpoint, dtype=mx.float32)
    assert np.array_equal(np.array(weights["model.embed_tokens.weight"]), embedding)


@pytest.mark.parametrize("dtype", [mx.uint8, mx.uint16, mx.uint32, mx.float32])
@pytest.mark.parametrize("shape", [(3,), (5, 1, 7), (1024, 1025), (0, 4)])
def test_empty_arrays_are_written_through_their_memory(
    shape: tuple[int, ...], dtype: mx.Dtype
) -> None:
    """Above and below what huge pages are asked for."""
    array = empty(shape, dtype)
    view = np.asarray(array)
    values = np.arange(array.size).astype(view.dtype).reshape(shape)
    view[...] = values
    assert (array.shape, array.dtype) == (shape, dtype)
    assert np.array_equal(np.array(array + 0), values)


def test_selected_parameters_only(tmp_path: Path) -> None:
    weights = load_parameters(
        small(tmp_path), dtype=mx.float32, select=lambda x: x.part == "lm_head"
    )
    assert list(weights) == ["lm_head.weight"]


def test_progress_counts_stored_bytes_to_the_end(tmp_path: Path) -> None:
    checkpoint = small(tmp_path)
    seen: list[tuple[int, int]] = []
    load_model(
        checkpoint,
        dtype=mx.float32,
        progress=lambda done, total: seen.append((done, total)),
    )
    total = sum(checkpoint.bytes_by_part.values())
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["hf", "mlx-packed-mixed", "mlx-split-dense"])
def test_loaded_bytes_are_known_before_loading(
    layout: str, dtype: mx.Dtype, tmp_path: Path
) -> None:
    config = checkpoints.hf_config(**SMALL)
    tensors = checkpoints.random_tensors(config)
    layout_writers.WRITERS[layout](tmp_path, config, tensors)
    checkpoint = open_checkpoint(tmp_path)
    weights = load_parameters(checkpoint, dtype=dtype)
    planned = checkpoint.loaded_bytes_by_part(dtype.size)
    assert sum(planned.values()) == sum(x.nbytes for x in weights.values())


def test_nothing_is_held_twice_while_loading(tmp_path: Path) -> None:
    checkpoint = small(tmp_path, vocab_size=5_001)
    needed = sum(checkpoint.loaded_bytes_by_part(4).values())
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_model(checkpoint, dtype=mx.float32)
    peak = mx.get_peak_memory() - before
    assert needed <= peak < 1.05 * needed
    assert model.parameters()  # alive until here


def test_loaded_weights_are_evaluated(tmp_path: Path) -> None:
    model = load_model(small(tmp_path), dtype=mx.bfloat16)
    before = mx.get_active_memory()
    mx.eval(model.parameters())
    assert mx.get_active_memory() == before


def test_what_is_no_dtype_of_arithmetic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        load_model(small(tmp_path), dtype=mx.int8)
    assert str(error.value) == ("cannot load as int8: use float32, bfloat16 or float16")


def test_a_file_cut_after_opening_is_named(tmp_path: Path) -> None:
    checkpoint = small(tmp_path)
    os.truncate(checkpoint.files[0], 5_000)
    with pytest.raises(CheckpointError, match=r"ended inside tensor `.*`: it changed"):
        load_parameters(checkpoint, dtype=mx.float32)


def test_a_file_gone_after_opening_is_named(tmp_path: Path) -> None:
    checkpoint = small(tmp_path)
    checkpoint.files[0].unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        load_parameters(checkpoint, dtype=mx.float32)


def test_what_does_not_fit_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    checkpoint = sparse_giant(tmp_path)
    with pytest.raises(MemoryBudgetError) as error:
        load_parameters(checkpoint, dtype=mx.bfloat16)
    assert str(error.value).startswith("the weights take 275.1 GB, but there are ")


def sparse_giant(folder: Path) -> Checkpoint:
    """A checkpoint of 275 GB that takes a few kB of disk: its weights are a hole."""
    raw = checkpoints.hf_config(**SMALL, vocab_size=1 << 20, hidden_size=1 << 16)
    checkpoints.write_folder(folder, raw, {})
    config, specs = ModelConfig.from_dict(raw), {}
    for matrix in matrices(config, HF.experts):
        setting = MXFP4 if matrix.part == EXPERTS else None
        for kind, spec in matrix_specs(matrix, setting, HF, matrix.shape[-2]).items():
            specs[HF.stored_name(f"{matrix.path}.{kind}")] = spec
    specs |= {vector.name: (("BF16",), vector.shape) for vector in vectors(config)}
    header, end = {}, 0
    for name, ((dtype, *_), shape) in specs.items():
        start, end = end, end + math.prod(shape) * DTYPE_BYTES[dtype]
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return open_checkpoint(folder)


def test_casts_of_every_special_value() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    floats = bfloat16_to_float32(bits)
    exact = np.array(mx.array(bits).view(mx.bfloat16).astype(mx.float32))
    assert np.array_equal(floats, exact, equal_nan=True)
    back = float32_to_bfloat16(floats)
    nan = np.isnan(floats)
    assert np.array_equal(back[~nan], bits[~nan])
    assert np.isnan(bfloat16_to_float32(back[nan])).all()
