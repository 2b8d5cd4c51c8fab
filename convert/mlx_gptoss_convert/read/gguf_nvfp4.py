"""ggml's NVFP4, presented like that of other tools (see `nvfp4.py`).

A block of 64 values is the scales of its four groups, E4M3 without a sign, then 8 bytes
for each group: value j in the low nibble of byte j, value j + 8 in the high one. The
scale of a whole matrix, or of each of a stack, is a tensor of its own, `attn_q.scale`
beside `attn_q.weight`; `input_scale` is that of activations. Sources: `block_nvfp4` in
llama.cpp's ggml-common.h, `_nvfp4_pack` in its converter, and `gguf.quants.NVFP4`.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.checkpoint.decoded_tensor import DecodedTensor
from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.block_formats import E4M3_NAN
from mlx_gptoss.format.foreign_forms import NVFP4_GROUP
from mlx_gptoss.format.layout import DTYPE_BYTES
from mlx_gptoss_convert.read.gguf import GgufTensor
from mlx_gptoss_convert.read.gguf_blocks import HIGH, LOW, BlockDecoder
from mlx_gptoss_convert.read.gguf_types import NVFP4
from mlx_gptoss_convert.read.nvfp4 import FLOAT, Nvfp4Rows, read_floats
from mlx_gptoss_convert.read.packed_values import CODES_PER_BYTE
from mlx_gptoss_convert.read.source import SourceTensor

GROUPS = NVFP4.block // NVFP4_GROUP
HALF = NVFP4_GROUP // CODES_PER_BYTE // CODES_PER_BYTE  # pairs in half a group
UNSIGNED = np.uint8(0x7F)
SCALE, ACTIVATION_SCALE = ".scale", ".input_scale"


def decode_codes(stored: np.ndarray) -> np.ndarray:
    """Reorder blocks (n, 36) to codes (n, 32), neighbours in one byte."""
    groups = stored[:, GROUPS:].reshape(len(stored), GROUPS, -1)
    first, second = groups[:, :, 0::2], groups[:, :, 1::2]
    codes = np.empty(groups.shape, np.uint8)
    codes[:, :, :HALF] = (first & LOW) | (second << 4)
    codes[:, :, HALF:] = (first >> 4) | (second & HIGH)
    return codes.reshape(len(stored), -1)


def decode_scales(stored: np.ndarray) -> np.ndarray:
    """Take the scales (n, 4) of blocks (n, 36); what E4M3 has as NaN is 0 in ggml."""
    scales = stored[:, :GROUPS] & UNSIGNED
    scales[scales == E4M3_NAN[0]] = 0
    return scales


CODES = BlockDecoder(
    "NVFP4 codes", NVFP4.nbytes, NVFP4.nbytes - GROUPS, decode_codes, NVFP4.nbytes
)
SCALES = BlockDecoder("NVFP4 scales", NVFP4.nbytes, GROUPS, decode_scales, 0)


def nvfp4_tensor(tensor: GgufTensor) -> DecodedTensor:
    """Present a matrix, or a stack of them, as bfloat16."""
    *stack, columns = tensor.shape
    parts = [
        SourceTensor(
            tensor.name,
            "U8",
            (*stack, columns // values),
            tensor.file,
            tensor.offset,
            decoder,
        )
        for values, decoder in ((CODES_PER_BYTE, CODES), (NVFP4_GROUP, SCALES))
    ]
    rows = stack[-1] if stack else 1
    return DecodedTensor(
        name=tensor.name,
        file=tensor.file,
        dtype=FLOAT,
        shape=tensor.shape,
        offset=tensor.offset,
        nbytes=prod(tensor.shape) * DTYPE_BYTES[FLOAT],
        decoder=Nvfp4Rows(parts[0], parts[1], tensor.scales, rows, columns),
    )


def with_scales(named: Mapping[str, GgufTensor]) -> dict[str, GgufTensor]:
    """Give matrices of NVFP4 their own scales, and leave out those of activations.

    Raises CheckpointError for a scale without such a matrix.
    """
    found = {
        k: x for k, x in named.items() if not k.endswith((SCALE, ACTIVATION_SCALE))
    }
    for name, tensor in named.items():
        if not name.endswith(SCALE):
            continue
        path = name.removesuffix(SCALE)
        weight = found.get(f"{path}.weight")
        scales = tuple(map(float, read_floats(as_stored(tensor))))
        if weight is None or weight.ggml_type != NVFP4:
            if set(scales) != {1.0}:
                raise CheckpointError(
                    f"tensor `{name}` in `{tensor.file}` scales a matrix that is not "
                    "NVFP4, which is not computed: use another GGUF of this model"
                )
            continue
        if len(scales) not in (1, prod(weight.shape[:-2])):
            raise CheckpointError(
                f"tensor `{name}` in `{tensor.file}` has {len(scales)} values, "
                f"`{weight.name}` has shape {weight.shape}: expected one for each "
                "matrix, make the GGUF again"
            )
        found[f"{path}.weight"] = replace(weight, scales=scales)
    return found


def as_stored(tensor: GgufTensor) -> StoredTensor:
    return StoredTensor(
        tensor.name,
        tensor.file,
        tensor.ggml_type.name,
        tensor.shape,
        tensor.offset,
        tensor.nbytes,
    )
