"""How bytes of a GGUF are seen as ours: block by block, exactly.

ggml keeps a block of 32 MXFP4 values as a scale byte and 16 bytes, value j in the low
nibble of byte j, value j + 16 in the high one; OpenAI and MLX keep neighbours in one
byte and the scales apart. Knows bytes of blocks, no tensors and no files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.format.layout import BYTES_PER_BLOCK, VALUES_PER_BLOCK
from mlx_gptoss_convert.read.gguf import F32, MXFP4, Q8_0

READ_BYTES = 4 * 1024**2  # of the file, at a time
LOW, HIGH = np.uint8(0x0F), np.uint8(0xF0)
LARGEST = np.float32(127)  # of the whole numbers of Q8_0


@dataclass(frozen=True)
class BlockDecoder:
    """Blocks of `stored_bytes` in the file, seen as `seen_bytes` each."""

    name: str
    stored_bytes: int
    decoded_bytes: int
    decode: Callable[[np.ndarray], np.ndarray]  # uint8 (n, stored) to (n, seen)

    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the seen bytes `start` to `stop`; `read` takes offsets in the file.

        Peak memory: the result and a few times READ_BYTES.
        """
        first, last = start // self.decoded_bytes, -(-stop // self.decoded_bytes)
        seen = np.empty((last - first, self.decoded_bytes), np.uint8)
        step = READ_BYTES // self.stored_bytes
        for at in range(first, last, step):
            end = min(at + step, last)
            raw = read(at * self.stored_bytes, end * self.stored_bytes)
            seen[at - first : end - first] = self.decode(
                raw.reshape(-1, self.stored_bytes)
            )
        skipped = start - first * self.decoded_bytes
        return seen.reshape(-1)[skipped : skipped + stop - start]


def decode_mxfp4_blocks(stored: np.ndarray) -> np.ndarray:
    """Take ggml's blocks (n, 17) to ours (n, 16): neighbours into one byte."""
    low, high = stored[:, 1::2], stored[:, 2::2]  # values 2i and 16 + 2i, then 2i + 1
    blocks = np.empty((len(stored), BYTES_PER_BLOCK), np.uint8)
    blocks[:, :8] = (low & LOW) | (high << 4)
    blocks[:, 8:] = (low >> 4) | (high & HIGH)
    return blocks


def decode_mxfp4_scales(stored: np.ndarray) -> np.ndarray:
    return stored[:, :1]


def encode_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Take our blocks (n, 16) and scales (n,) to ggml's (n, 17)."""
    first, second = blocks[:, :8], blocks[:, 8:]
    stored = np.empty((len(blocks), MXFP4.nbytes), np.uint8)
    stored[:, 0] = scales
    stored[:, 1::2] = (first & LOW) | (second << 4)
    stored[:, 2::2] = (first >> 4) | (second & HIGH)
    return stored


def decode_q8_0(stored: np.ndarray) -> np.ndarray:
    """Decode blocks (n, 34) of Q8_0 to the bytes of float32 (n, 128); exact."""
    scales = np.ascontiguousarray(stored[:, :2]).view(np.float16).astype(np.float32)
    values = stored[:, 2:].view(np.int8).astype(np.float32) * scales
    return values.view(np.uint8)


def encode_q8_0(values: np.ndarray) -> np.ndarray:
    """Encode float32 (rows, columns) as Q8_0 (rows, columns / 32 * 34).

    The scale is rounded to float16 before the codes are chosen.
    """
    groups = values.reshape(-1, VALUES_PER_BLOCK)
    scales = (np.abs(groups).max(axis=1, keepdims=True) / LARGEST).astype(np.float16)
    steps = scales.astype(np.float32)
    codes = np.rint(groups / np.where(steps > 0, steps, np.float32(1)))
    stored = np.empty((len(groups), Q8_0.nbytes), np.uint8)
    stored[:, :2] = scales.view(np.uint8)
    stored[:, 2:] = np.clip(codes, -LARGEST, LARGEST).astype(np.int8).view(np.uint8)
    return stored.reshape(len(values), -1)


def decode_narrow(stored: np.ndarray) -> np.ndarray:
    """Drop the lower half of float32 values (n, 4) that are bfloat16."""
    return stored[:, 2:]


def is_bfloat16(raw: np.ndarray) -> bool:
    """Say whether bytes of float32 hold nothing that bfloat16 does not."""
    values = raw.view(np.float32)
    return not (values.view(np.uint32) & np.uint32(0xFFFF)).any()


MXFP4_BLOCKS = BlockDecoder(
    "blocks", MXFP4.nbytes, BYTES_PER_BLOCK, decode_mxfp4_blocks
)
MXFP4_SCALES = BlockDecoder("scales", MXFP4.nbytes, 1, decode_mxfp4_scales)
Q8_0_FLOATS = BlockDecoder("Q8_0", Q8_0.nbytes, 4 * VALUES_PER_BLOCK, decode_q8_0)
F32_AS_BF16 = BlockDecoder("narrow", F32.nbytes, 2, decode_narrow)
