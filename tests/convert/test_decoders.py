"""Decoders of foreign formats, in gpt-oss-20b's shapes: memory, and by hand speed."""

from pathlib import Path

import pytest

from mlx_gptoss_convert.measure.decoders import FILES, measure, shapes_of
from mlx_gptoss_convert.plan.estimates import MAX_MEMORY
from mlx_gptoss_convert.read.gguf_decoders import DECODERS

LEAST_RATE = 150e6  # bytes of bfloat16 per second on one core
ALL = (*FILES, *DECODERS)
QUICK_SHAPES = ((2048, 2880), (512, 2880))


@pytest.mark.parametrize("decoder", ALL)
def test_memory_is_that_of_the_values_and_their_codes(
    decoder: str, tmp_path: Path
) -> None:
    long = shapes_of(decoder) != shapes_of("Q4_0")
    found = measure(decoder, ((720, 4096),) if long else QUICK_SHAPES, tmp_path)
    assert found.matrix <= found.peak < 2 * found.matrix + 8_000_000 < MAX_MEMORY


@pytest.mark.soak
@pytest.mark.parametrize("decoder", ALL)
def test_decoding_is_fast_on_one_core(decoder: str, tmp_path: Path) -> None:
    found = measure(decoder, shapes_of(decoder), tmp_path, experts=4)
    assert found.rate > LEAST_RATE
    assert found.peak < 2 * found.matrix
