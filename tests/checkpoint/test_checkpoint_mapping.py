"""Mapping weights: a copy of the mapped pages stands in for Metal's zero-copy use.

Everything but the sharing itself runs as on a Mac; a CPU refuses to share.
"""

import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.checkpoint import Checkpoint, load_parameters, open_checkpoint
from mlx_gptoss.checkpoint.mapping import (
    PAGE_BYTES,
    map_pages,
    share_pages,
    start_read_ahead,
)
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.checkpoint.tensor_reads import read_ahead
from mlx_gptoss.diagnostics.bench.primitives import count_primitives
from tests.support import checkpoints, layout_writers

SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}


class Sharing:
    """Copies what it is given, and counts; fails as MLX does where told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.pages: list[np.ndarray] = []
        self.error = error

    def __call__(self, pages: np.ndarray) -> mx.array:
        self.pages.append(pages)
        if self.error is not None:
            raise self.error
        return mx.array(pages)


def written(folder: Path, layout: str) -> Checkpoint:
    config = checkpoints.hf_config(**SIZES, vocab_size=1_301)
    tensors = checkpoints.random_tensors(config, seed=3)
    layout_writers.WRITERS[layout](folder, config, tensors)
    return open_checkpoint(folder)


def same(a: dict[str, mx.array], b: dict[str, mx.array]) -> bool:
    return list(a) == list(b) and all(
        a[name].dtype == b[name].dtype and bool(mx.array_equal(a[name], b[name]))
        for name in a
    )


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
@pytest.mark.parametrize("layout", ["hf", "hf-sharded", "mlx-split-mxfp4", "original"])
def test_adopted_weights_are_the_ones_that_are_read(
    layout: str, dtype: mx.Dtype, tmp_path: Path
) -> None:
    checkpoint = written(tmp_path, layout)
    sharing = Sharing()
    adopted = load_parameters(checkpoint, dtype=dtype, share=sharing)
    assert sharing.pages
    assert same(adopted, load_parameters(checkpoint, dtype=dtype))


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError, RuntimeError])
def test_what_cannot_be_adopted_is_read(error: type, tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "hf")
    sharing = Sharing(error("no"))
    weights = load_parameters(checkpoint, dtype=mx.bfloat16, share=sharing)
    assert sharing.pages
    assert same(weights, load_parameters(checkpoint, dtype=mx.bfloat16))


@pytest.mark.skipif(mx.metal.is_available(), reason="Metal does share")
def test_a_cpu_refuses_to_share_and_nothing_is_lost(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "hf")
    with pytest.raises(ValueError, match="without a copy"):
        share_pages(np.zeros(8, np.uint8))
    weights = load_parameters(checkpoint, dtype=mx.bfloat16, share=share_pages)
    assert same(weights, load_parameters(checkpoint, dtype=mx.bfloat16))


@pytest.mark.metal
@pytest.mark.skipif(not mx.metal.is_available(), reason="needs Metal")
def test_metal_shares(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "hf")
    tensor = next(iter(checkpoint.tensors.values()))
    assert share_pages(map_pages(tensor)).nbytes >= tensor.nbytes


def test_maps_begin_on_a_page_and_hold_the_tensor(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "hf-sharded")
    for tensor in checkpoint.tensors.values():
        if tensor.offset % tensor.itemsize:
            continue
        pages = map_pages(tensor)
        first = tensor.offset % PAGE_BYTES
        held = pages.tobytes()[first : first + tensor.nbytes]
        with tensor.file.open("rb") as file:
            file.seek(tensor.offset)
            assert held == file.read(tensor.nbytes)


def test_whole_pages_are_two_dimensional(tmp_path: Path) -> None:
    """One dimension is an int32: too short for a stack of experts in bytes."""
    path = tmp_path / "whole"
    path.write_bytes(bytes(4 * PAGE_BYTES))
    tensor = StoredTensor("x", path, "U8", (PAGE_BYTES,), PAGE_BYTES + 8, PAGE_BYTES)
    assert map_pages(tensor).shape == (2, PAGE_BYTES // 4)


def test_adoption_adds_only_views_to_the_graph() -> None:
    shared = mx.zeros((4, PAGE_BYTES // 4), mx.uint32)
    mx.eval(shared)
    views = shared.flatten()[3:1027].view(mx.uint8).reshape(64, 64)
    assert not set(count_primitives(views)) & {"Copy", "Contiguous", "Gather"}


def test_read_ahead_ends_when_told_and_forgives_a_missing_file(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "hf")
    tensor = max(checkpoint.tensors.values(), key=lambda x: x.nbytes)
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return True

    read_ahead(tensor, stopped)
    assert asked == [True]
    checkpoint.files[0].unlink()
    read_ahead(tensor, lambda: False)
    start_read_ahead([tensor]).set()
    for thread in threading.enumerate():
        if thread.name.startswith("read-ahead"):
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_an_interrupt_does_not_wait_for_the_whole_file(tmp_path: Path) -> None:
    checkpoint = written(tmp_path, "hf")

    def interrupt(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load_parameters(checkpoint, dtype=mx.float32, progress=interrupt)
