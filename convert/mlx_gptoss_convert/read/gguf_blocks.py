"""Blocks of ggml's MXFP4 and floats, rearranged to those of MLX and back.

ggml stores a block of 32 MXFP4 values as a scale byte and 16 bytes, with value j in the
low nibble of byte j and value j + 16 in the high one. OpenAI, MLX and Ollama's own type
put neighbouring values in one byte; OpenAI and MLX store the scales separately. Knows
the bytes of blocks, not tensors or files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.format.layout import BYTES_PER_BLOCK, VALUES_PER_BLOCK
from mlx_gptoss_convert.read.gguf_types import F32, MXFP4, Q8_0, GgmlType

READ_BYTES = 4 * 1024**2  # read from the file at a time
DECODED_BYTES = 2**17  # decoded at a time: a core's cache holds them as float32, twice
LOW, HIGH = np.uint8(0x0F), np.uint8(0xF0)
Q8_0_MAX = np.float32(127)  # largest code of Q8_0


@dataclass(frozen=True)
class BlockDecoder:
    """Decodes blocks of `stored_bytes` in the file to `decoded_bytes` each.

    `dequantized` is the type whose codes become floats, None where bytes only move.
    `own_bytes` of a block are this decoder's; the others are those of its companion.
    """

    name: str
    stored_bytes: int
    decoded_bytes: int
    decode: Callable[[np.ndarray], np.ndarray]  # uint8 (n, stored) to (n, decoded)
    own_bytes: int
    dequantized: GgmlType | None = None

    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the decoded bytes `start` to `stop`; `read` takes file offsets.

        Peak memory: the result, READ_BYTES and a few times DECODED_BYTES.
        """
        first, last = start // self.decoded_bytes, -(-stop // self.decoded_bytes)
        decoded = np.empty((last - first, self.decoded_bytes), np.uint8)
        step = READ_BYTES // self.stored_bytes
        for at in range(first, last, step):
            end = min(at + step, last)
            raw = read(at * self.stored_bytes, end * self.stored_bytes)
            self.decode_into(
                decoded[at - first : end - first], raw.reshape(-1, self.stored_bytes)
            )
        skipped = start - first * self.decoded_bytes
        return decoded.reshape(-1)[skipped : skipped + stop - start]

    def decode_into(self, decoded: np.ndarray, stored: np.ndarray) -> None:
        """Decode blocks (n, stored_bytes) in pieces that a core's cache holds."""
        step = max(1, DECODED_BYTES // self.decoded_bytes)
        for at in range(0, len(stored), step):
            decoded[at : at + step] = self.decode(stored[at : at + step])

    def bytes_in_file(self, nbytes: int) -> int:
        """Return the stored bytes that `nbytes` decoded bytes account for."""
        return nbytes // self.decoded_bytes * self.own_bytes


def decode_mxfp4_blocks(stored: np.ndarray) -> np.ndarray:
    """Reorder ggml's blocks (n, 17) to MLX's (n, 16), neighbours in one byte."""
    low, high = stored[:, 1::2], stored[:, 2::2]  # values 2i and 16 + 2i, then 2i + 1
    blocks = np.empty((len(stored), BYTES_PER_BLOCK), np.uint8)
    blocks[:, :8] = (low & LOW) | (high << 4)
    blocks[:, 8:] = (low >> 4) | (high & HIGH)
    return blocks


def decode_ollama_blocks(stored: np.ndarray) -> np.ndarray:
    """Take MLX's blocks (n, 16) from Ollama's (n, 17), which follow the scale byte."""
    return stored[:, 1:]


def decode_mxfp4_scales(stored: np.ndarray) -> np.ndarray:
    """Take the scale bytes (n, 1) of either's blocks (n, 17)."""
    return stored[:, :1]


def encode_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Reorder MLX's blocks (n, 16) and scales (n,) to ggml's blocks (n, 17)."""
    first, second = blocks[:, :8], blocks[:, 8:]
    stored = np.empty((len(blocks), MXFP4.nbytes), np.uint8)
    stored[:, 0] = scales
    stored[:, 1::2] = (first & LOW) | (second << 4)
    stored[:, 2::2] = (first >> 4) | (second & HIGH)
    return stored


def encode_q8_0(values: np.ndarray) -> np.ndarray:
    """Encode float32 (rows, columns) as Q8_0 (rows, columns / 32 * 34).

    The scale is rounded to float16 before the codes are chosen.
    """
    groups = values.reshape(-1, VALUES_PER_BLOCK)
    scales = (np.abs(groups).max(axis=1, keepdims=True) / Q8_0_MAX).astype(np.float16)
    steps = scales.astype(np.float32)
    codes = np.rint(groups / np.where(steps > 0, steps, np.float32(1)))
    stored = np.empty((len(groups), Q8_0.nbytes), np.uint8)
    stored[:, :2] = scales.view(np.uint8)
    stored[:, 2:] = np.clip(codes, -Q8_0_MAX, Q8_0_MAX).astype(np.int8).view(np.uint8)
    return stored.reshape(len(values), -1)


def decode_narrow(stored: np.ndarray) -> np.ndarray:
    """Drop the lower half of float32 values (n, 4) that are exactly bfloat16."""
    return stored[:, 2:]


def is_bfloat16(raw: np.ndarray) -> bool:
    """Whether every float32 value in `raw` is exactly a bfloat16 value."""
    values = raw.view(np.float32)
    return not (values.view(np.uint32) & np.uint32(0xFFFF)).any()


def block_decoder(
    name: str, decode: Callable[[np.ndarray], np.ndarray], size: int
) -> BlockDecoder:
    return BlockDecoder(name, MXFP4.nbytes, size, decode, size)


MXFP4_BLOCKS = block_decoder("blocks", decode_mxfp4_blocks, BYTES_PER_BLOCK)
OLLAMA_BLOCKS = block_decoder("Ollama blocks", decode_ollama_blocks, BYTES_PER_BLOCK)
MXFP4_SCALES = block_decoder("scales", decode_mxfp4_scales, 1)
F32_AS_BF16 = BlockDecoder("narrow", F32.nbytes, 2, decode_narrow, F32.nbytes)
