"""Odd and damaged weights of bitsandbytes and NVFP4: read right, or refused in a line.

Values are judged by the formulas of `foreign_forms`, written out in float64.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlx_gptoss.checkpoint import read_header
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.block_formats import E4M3_VALUES
from mlx_gptoss.format.mxfp4 import FP4_VALUES
from mlx_gptoss_convert.read.bitsandbytes import decode_bitsandbytes
from mlx_gptoss_convert.read.nvfp4 import decode_compressed, decode_modelopt
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

Tensors = dict[str, np.ndarray]
STATE = "w.quant_state.bitsandbytes__"


def values_of(path: Path, decode: Callable[..., Any], name: str) -> np.ndarray:
    """Decode a weight in a file to float32, flat."""
    source = SourceTensor.from_checkpoint(name, decode(read_header(path))[name])
    with TensorReader() as reader:
        raw = reader.read(source, 0, source.nbytes)
    if source.dtype == "F32":
        return raw.view(np.float32)
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def packed(
    *, kind: str = "nf4", block: int = 64, nested: bool = True, shape=(6, 50)
) -> tuple[Tensors, np.ndarray]:
    """Return a weight as bitsandbytes has it, and its values in float64."""
    draw = np.random.default_rng(block)
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    codes = draw.integers(0, 16, count + count % 2, np.uint8)
    table = draw.standard_normal(16).astype(np.float32)
    state: dict[str, Any] = {
        "quant_type": kind,
        "blocksize": block,
        "dtype": "float32",
        "shape": shape,
    }
    tensors: Tensors = {"w.quant_map": table}
    if nested:
        levels = np.linspace(-1, 1, 256, dtype=np.float32)
        scale_codes = draw.integers(0, 256, blocks, np.uint8)
        outer = draw.random(-(-blocks // 256)).astype(np.float32)
        state |= {"nested_blocksize": 256, "nested_offset": 0.5}
        state["nested_dtype"] = "float32"
        tensors |= {
            "w.absmax": scale_codes,
            "w.nested_absmax": outer,
            "w.nested_quant_map": levels,
        }
        scales = levels[scale_codes] * np.repeat(outer, 256)[:blocks] + 0.5
    else:
        scales = draw.random(blocks).astype(np.float32)
        tensors["w.absmax"] = scales
    tensors["w"] = (codes[0::2] << 4 | codes[1::2])[:, None]
    tensors[STATE + kind] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    values = table[codes[:count]].astype(np.float64)
    return tensors, values * np.repeat(scales, block)[:count]


@pytest.mark.parametrize("block", [32, 64, 128, 256, 4096])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [True, False])
def test_blocks_of_any_size_decode(
    block: int, kind: str, nested: bool, tmp_path: Path
) -> None:
    tensors, exact = packed(kind=kind, block=block, nested=nested)
    save_file(tensors, tmp_path / "w.safetensors")
    found = values_of(tmp_path / "w.safetensors", decode_bitsandbytes, "w")
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_codes_may_be_kept_in_words_of_another_dtype(tmp_path: Path) -> None:
    """As with `bnb_4bit_quant_storage`, which FSDP needs."""
    tensors, exact = packed(shape=(8, 64))
    tensors["w"] = tensors["w"].reshape(-1).view(np.float32)[:, None]
    save_file(tensors, tmp_path / "w.safetensors")
    found = values_of(tmp_path / "w.safetensors", decode_bitsandbytes, "w")
    np.testing.assert_allclose(found, exact, rtol=1e-6)


STATES: dict[str, Any] = {
    "no block": {"blocksize": None},
    "no values in a block": {"blocksize": 0},
    "an odd block": {"blocksize": 63},
    "a block in words": {"blocksize": "64"},
    "another block": {"blocksize": 128},
    "no shape": {"shape": None},
    "another shape": {"shape": [6, 52]},
    "a negative shape": {"shape": [-6, -50]},
    "an unknown dtype": {"dtype": "float8"},
    "a dtype that is none": {"dtype": ["float32"]},
    "no outer block": {"nested_blocksize": 0},
    "an offset in words": {"nested_offset": "0.5"},
}


def with_state(tensors: Tensors, changes: Mapping[str, Any]) -> Tensors:
    state = json.loads(tensors[STATE + "nf4"].tobytes()) | changes
    raw = np.frombuffer(json.dumps(state).encode(), np.uint8)
    return tensors | {STATE + "nf4": raw}


@pytest.mark.parametrize("what", STATES)
def test_a_state_that_does_not_fit_is_refused(what: str, tmp_path: Path) -> None:
    save_file(with_state(packed()[0], STATES[what]), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="are not complete, or not as") as raised:
        decode_bitsandbytes(read_header(tmp_path / "w.safetensors"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("raw", [b"[]", b"{", b"\xff"])
def test_a_state_that_is_no_object_is_refused(raw: bytes, tmp_path: Path) -> None:
    tensors = packed()[0] | {STATE + "nf4": np.frombuffer(raw, np.uint8)}
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="as bitsandbytes writes it"):
        decode_bitsandbytes(read_header(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("w.absmax", np.zeros(3, np.uint8)),
        ("w.quant_map", np.zeros(15, np.float32)),
        ("w.quant_map", np.zeros(16, np.float16)),
        ("w.nested_absmax", np.zeros(2, np.float32)),
        ("w.nested_quant_map", np.zeros(255, np.float32)),
        ("w.nested_quant_map", None),
        ("w", None),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    part: str, value: np.ndarray | None, tmp_path: Path
) -> None:
    tensors = packed()[0]
    if value is None:
        del tensors[part]
    else:
        tensors[part] = value
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="are not complete, or not as"):
        decode_bitsandbytes(read_header(tmp_path / "w.safetensors"))


def nvfp4(total: np.ndarray, *, reciprocal: bool, columns: int = 32) -> Tensors:
    draw = np.random.default_rng(7)
    codes = draw.integers(0, 256, (4, columns // 2), np.uint8)
    scales = draw.integers(0, 127, (4, columns // 16), np.uint8)
    names = ("weight", "weight_scale", "weight_scale_2")
    if reciprocal:
        names = ("weight_packed", "weight_scale", "weight_global_scale")
    return {
        f"w.{name}": x for name, x in zip(names, (codes, scales, total), strict=True)
    }


def exact_nvfp4(tensors: Tensors) -> np.ndarray:
    codes, scales, _ = tensors.values()
    pairs = np.stack([codes & 15, codes >> 4], axis=-1).reshape(4, -1)
    return FP4_VALUES[pairs] * np.repeat(E4M3_VALUES[scales], 16, axis=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_scale_of_a_matrix_may_be_any_float(
    dtype: type, shape: tuple[int, ...], tmp_path: Path
) -> None:
    tensors = nvfp4(np.full(shape, 4, dtype), reciprocal=False)
    save_file(tensors, tmp_path / "w.safetensors")
    found = values_of(tmp_path / "w.safetensors", decode_modelopt, "w.weight")
    np.testing.assert_allclose(found, 4 * exact_nvfp4(tensors).reshape(-1), rtol=2**-8)


def test_a_scale_of_zero_is_a_matrix_of_zeros_or_refused(tmp_path: Path) -> None:
    path, zero = tmp_path / "w.safetensors", np.zeros(1, np.float32)
    save_file(nvfp4(zero, reciprocal=False), path)
    assert not values_of(path, decode_modelopt, "w.weight").any()
    save_file(nvfp4(zero, reciprocal=True), path)
    with pytest.raises(CheckpointError, match="is zero, and values are divided by it"):
        decode_compressed(read_header(path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"w.weight_scale_2": np.full(1, np.nan, np.float32)}, "a few finite floats"),
        ({"w.weight_scale_2": np.ones(1, np.int32)}, "a few finite floats"),
        ({"w.weight_scale_2": np.ones(3, np.float32)}, "as NVFP4 has them"),
        ({"w.weight_scale": np.ones((4, 3), np.uint8)}, "as NVFP4 has them"),
        ({"w.weight": np.ones((4, 12), np.uint8)}, "as NVFP4 has them"),
        ({"w.weight": np.ones(4, np.uint8)}, "as NVFP4 has them"),
        ({"w.weight": np.ones((4, 16), np.float32)}, "as NVFP4 has them"),
    ],
)
def test_parts_of_nvfp4_that_do_not_fit_are_refused(
    changes: Tensors, says: str, tmp_path: Path
) -> None:
    tensors = nvfp4(np.ones(1, np.float32), reciprocal=False) | changes
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=re.escape(says)) as raised:
        decode_modelopt(read_header(tmp_path / "w.safetensors"))
    assert "\n" not in str(raised.value)
