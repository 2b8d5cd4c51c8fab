"""ggml's tensor types: every type by number, and the codecs of those read here.

To read another GGUF type, add a `GgmlType` to `READABLE_TYPES`, write a decoder of its
blocks, and map the type to that decoder in `gguf_checkpoint.stored_tensors`.

ggml stores a block of 32 MXFP4 values as a scale byte and 16 bytes, with value j in the
low nibble of byte j and value j + 16 in the high one. OpenAI and MLX put neighbouring
values in one byte and store the scales separately. This module knows the bytes of
blocks, not tensors or files.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlx_gptoss.format.layout import BYTES_PER_BLOCK, VALUES_PER_BLOCK

READ_BYTES = 4 * 1024**2  # read from the file at a time
LOW, HIGH = np.uint8(0x0F), np.uint8(0xF0)
Q8_0_MAX = np.float32(127)  # largest code of Q8_0


@dataclass(frozen=True)
class GgmlType:
    """How ggml stores values: `nbytes` bytes for each block of `block` values."""

    name: str
    number: int
    block: int
    nbytes: int


F32 = GgmlType("F32", 0, 1, 4)
F16 = GgmlType("F16", 1, 1, 2)
Q8_0 = GgmlType("Q8_0", 8, 32, 34)
BF16 = GgmlType("BF16", 30, 1, 2)
MXFP4 = GgmlType("MXFP4", 39, 32, 17)
READABLE_TYPES = {entry.number: entry for entry in (F32, F16, Q8_0, BF16, MXFP4)}
UNSUPPORTED_TYPES = {  # names for error messages
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    40: "NVFP4",
}


@dataclass(frozen=True)
class BlockDecoder:
    """Decodes blocks of `stored_bytes` in the file to `decoded_bytes` each."""

    name: str
    stored_bytes: int
    decoded_bytes: int
    decode: Callable[[np.ndarray], np.ndarray]  # uint8 (n, stored) to (n, decoded)

    def read(
        self, read: Callable[[int, int], np.ndarray], start: int, stop: int
    ) -> np.ndarray:
        """Return the decoded bytes `start` to `stop`; `read` takes file offsets.

        Peak memory: the result and a few times READ_BYTES.
        """
        first, last = start // self.decoded_bytes, -(-stop // self.decoded_bytes)
        decoded = np.empty((last - first, self.decoded_bytes), np.uint8)
        step = READ_BYTES // self.stored_bytes
        for at in range(first, last, step):
            end = min(at + step, last)
            raw = read(at * self.stored_bytes, end * self.stored_bytes)
            decoded[at - first : end - first] = self.decode(
                raw.reshape(-1, self.stored_bytes)
            )
        skipped = start - first * self.decoded_bytes
        return decoded.reshape(-1)[skipped : skipped + stop - start]


def decode_mxfp4_blocks(stored: np.ndarray) -> np.ndarray:
    """Reorder ggml's blocks (n, 17) to MLX's (n, 16), neighbours in one byte."""
    low, high = stored[:, 1::2], stored[:, 2::2]  # values 2i and 16 + 2i, then 2i + 1
    blocks = np.empty((len(stored), BYTES_PER_BLOCK), np.uint8)
    blocks[:, :8] = (low & LOW) | (high << 4)
    blocks[:, 8:] = (low >> 4) | (high & HIGH)
    return blocks


def decode_mxfp4_scales(stored: np.ndarray) -> np.ndarray:
    """Take the scale bytes (n, 1) of ggml's blocks (n, 17)."""
    return stored[:, :1]


def encode_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Reorder MLX's blocks (n, 16) and scales (n,) to ggml's blocks (n, 17)."""
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


MXFP4_BLOCKS = BlockDecoder(
    "blocks", MXFP4.nbytes, BYTES_PER_BLOCK, decode_mxfp4_blocks
)
MXFP4_SCALES = BlockDecoder("scales", MXFP4.nbytes, 1, decode_mxfp4_scales)
Q8_0_FLOATS = BlockDecoder("Q8_0", Q8_0.nbytes, 4 * VALUES_PER_BLOCK, decode_q8_0)
F32_AS_BF16 = BlockDecoder("narrow", F32.nbytes, 2, decode_narrow)
