import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss_convert.steps.affine import (
    REFITS,
    AffineRows,
    decode_affine,
    encode_affine,
    from_float32,
    pack_codes,
    to_float32,
    unpack_codes,
)
from tests.support.checkpoints import to_bfloat16

ROWS, COLUMNS = 7, 192
WIDTHS = [(bits, group_size) for bits in REFITS for group_size in (32, 64)]


def gaussian(seed: int, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return to_bfloat16(0.02 * draw.standard_normal(shape, np.float32))


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def mlx_decode(encoded: AffineRows, bits: int, group_size: int) -> np.ndarray:
    scales, biases = (
        mx.array(to_float32(raw, "BF16")) for raw in (encoded.scales, encoded.biases)
    )
    weight = mx.array(encoded.weight)
    return np.array(
        mx.dequantize(weight, scales, biases, group_size=group_size, bits=bits)
    )


@pytest.mark.parametrize(("bits", "group_size"), WIDTHS)
def test_mlx_decodes_our_bytes_to_the_same_values(bits: int, group_size: int) -> None:
    encoded = encode_affine(gaussian(1), bits=bits, group_size=group_size, dtype="BF16")
    ours = decode_affine(encoded, bits=bits, group_size=group_size, dtype="BF16")
    np.testing.assert_array_equal(ours, mlx_decode(encoded, bits, group_size))


@pytest.mark.parametrize(("bits", "group_size"), WIDTHS)
def test_the_error_is_below_that_of_mlx_quantize(bits: int, group_size: int) -> None:
    values = gaussian(2, (64, 576))
    weight, scales, biases = mx.quantize(
        mx.array(values).astype(mx.bfloat16), group_size=group_size, bits=bits
    )
    stock = np.array(
        mx.dequantize(
            weight,
            scales.astype(mx.float32),
            biases.astype(mx.float32),
            group_size=group_size,
            bits=bits,
        )
    )
    encoded = encode_affine(values, bits=bits, group_size=group_size, dtype="BF16")
    ours = decode_affine(encoded, bits=bits, group_size=group_size, dtype="BF16")
    assert rms(ours - values) < 0.98 * rms(stock - values)


@pytest.mark.parametrize("bits", REFITS)
def test_every_code_survives_packing(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(
        0, 2**bits, (ROWS, COLUMNS), dtype=np.uint8
    )
    packed = pack_codes(codes, bits)
    assert packed.shape == (ROWS, COLUMNS * bits // 32)
    np.testing.assert_array_equal(unpack_codes(packed, bits), codes)


def test_packed_codes_are_one_little_endian_stream_of_bits() -> None:
    codes = np.arange(32, dtype=np.uint8)[None]
    stream = int.from_bytes(pack_codes(codes, 5).tobytes(), "little")
    assert [(stream >> (5 * i)) & 31 for i in range(32)] == list(range(32))


@pytest.mark.parametrize("bits", REFITS)
def test_constant_groups_are_exact(bits: int) -> None:
    values = np.repeat(np.array([[0.0], [-1.5], [0.25]], np.float32), 64, axis=1)
    encoded = encode_affine(values, bits=bits, group_size=64, dtype="BF16")
    decoded = decode_affine(encoded, bits=bits, group_size=64, dtype="BF16")
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_stored_floats_round_to_even_and_come_back(dtype: str) -> None:
    exact = np.array([0, -0.0, 1.5, -2, 2**-14, 1 + 2**-7], np.float32)
    np.testing.assert_array_equal(to_float32(from_float32(exact, dtype), dtype), exact)


def test_a_tie_rounds_to_the_even_bfloat16() -> None:
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32)
    assert from_float32(ties, "BF16").tolist() == [0x3F80, 0x3F82]


def test_one_row_at_a_time_gives_the_same_bytes() -> None:
    values = gaussian(3)
    whole = encode_affine(values, bits=4, group_size=64, dtype="BF16")
    rows = [
        encode_affine(row[None], bits=4, group_size=64, dtype="BF16") for row in values
    ]
    for part, name in enumerate(AffineRows._fields):
        np.testing.assert_array_equal(
            whole[part], np.concatenate([row[part] for row in rows]), err_msg=name
        )
