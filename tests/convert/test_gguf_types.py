"""ggml's types and their decoders, judged by the package `gguf`."""

import time
from collections.abc import Callable

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss_convert.read.gguf_blocks import (
    DECODED_BYTES,
    OLLAMA_BLOCKS,
    encode_mxfp4,
)
from mlx_gptoss_convert.read.gguf_decoders import DECODERS
from mlx_gptoss_convert.read.gguf_types import (
    OLLAMA_MXFP4,
    TYPES,
    UNREADABLE_TYPES,
)
from mlx_gptoss_convert.steps.affine import from_float32
from tests.support.k_quants import ENCODERS

LEAST_RATE = 150e6  # bytes of bfloat16 per second on one core


def reader_of(stored: np.ndarray) -> Callable[[int, int], np.ndarray]:
    flat = stored.reshape(-1)
    return lambda start, stop: flat[start:stop]


def random_blocks(name: str, count: int, seed: int) -> np.ndarray:
    size = DECODERS[name].stored_bytes
    return np.random.default_rng(seed).integers(0, 256, (count, size), np.uint8)


def decoded(name: str, stored: np.ndarray) -> np.ndarray:
    view = DECODERS[name]
    with np.errstate(all="ignore"):
        raw = view.read(reader_of(stored), 0, len(stored) * view.decoded_bytes)
    return raw.view(np.uint16)


def judged(name: str, stored: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return dequantize(stored, gguf.GGMLQuantizationType[name]).reshape(-1)


def test_numbers_and_sizes_are_those_of_the_package() -> None:
    sizes = gguf.GGML_QUANT_SIZES
    for entry in TYPES:
        if entry == OLLAMA_MXFP4:
            continue
        kind = gguf.GGMLQuantizationType(entry.number)
        assert (kind.name, *sizes[kind]) == (entry.name, entry.block, entry.nbytes)


def test_every_type_is_read_or_refused_by_name() -> None:
    known = {entry.number: entry.name for entry in TYPES} | UNREADABLE_TYPES
    theirs = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    assert {number: known.get(number) for number in theirs} == theirs


@pytest.mark.parametrize("name", DECODERS)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40))
def test_random_blocks_decode_as_the_package_decodes_them(
    name: str, seed: int, count: int
) -> None:
    """Any bytes, so scales that are zero, tiny, infinite or no number, too."""
    stored = random_blocks(name, count, seed)
    found, exact = decoded(name, stored), judged(name, stored)
    numbers = ~np.isnan(exact)
    np.testing.assert_array_equal(found[numbers], from_float32(exact, "BF16")[numbers])
    values = (found.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(np.isnan(values), ~numbers)


@pytest.mark.parametrize("name", ["Q4_0", "Q6_K"])
def test_any_range_of_bytes_is_that_part_of_the_whole(name: str) -> None:
    view = DECODERS[name]
    count = 2 * DECODED_BYTES // view.decoded_bytes + 3
    stored = random_blocks(name, count, 1)
    whole = decoded(name, stored).view(np.uint8)
    draw = np.random.default_rng(2)
    for _ in range(20):
        start, stop = sorted(map(int, draw.integers(0, len(whole) + 1, 2)))
        with np.errstate(all="ignore"):
            part = view.read(reader_of(stored), start, stop)
        np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize("name", ENCODERS)
def test_the_tests_own_encoders_are_near(name: str) -> None:
    """The package only decodes these types; the tests need files with them."""
    exact = np.random.default_rng(3).standard_normal((4, 512), np.float32)
    error = judged(name, ENCODERS[name](exact)) - exact.reshape(-1)
    least = {
        "Q2_K": 0.35,
        "Q3_K": 0.2,
        "Q4_K": 0.1,
        "IQ4_NL": 0.12,
        "IQ4_XS": 0.12,
    }.get(name, 0.05)
    assert np.sqrt(np.mean(error**2)) < least


def test_blocks_of_ollama_have_the_scale_first_and_then_mlx_s() -> None:
    draw = np.random.default_rng(4)
    blocks = draw.integers(0, 256, (9, 16), np.uint8)
    scales = draw.integers(0, 256, 9, np.uint8)
    stored = np.concatenate([scales[:, None], blocks], axis=1)
    np.testing.assert_array_equal(OLLAMA_BLOCKS.decode(stored), blocks)
    ggml = encode_mxfp4(blocks, scales)
    low, high = ggml[:, 1:] & 15, ggml[:, 1:] >> 4
    nibbles = np.concatenate([low, high], axis=1)
    np.testing.assert_array_equal(nibbles[:, ::2] | nibbles[:, 1::2] << 4, blocks)


@pytest.mark.soak
@pytest.mark.parametrize("name", DECODERS)
def test_decoding_is_fast_on_one_core(name: str) -> None:
    """A matrix of (2,880, 4,096), which K-quants may have, and 32-value types too."""
    view = DECODERS[name]
    nbytes = 2 * 2880 * 4096
    stored = random_blocks(name, nbytes // view.decoded_bytes, 5)
    best = np.inf
    for _ in range(5):
        start = time.process_time()
        with np.errstate(all="ignore"):
            view.read(reader_of(stored), 0, nbytes)
        best = min(best, time.process_time() - start)
    assert nbytes / best > LEAST_RATE
