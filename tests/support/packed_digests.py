"""Digests of the weights of packed forms, as decoded here and by their library."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mlx_gptoss_convert.read.checkpoint import open_source
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

NEGATIVE_ZERO = 0x8000  # in bfloat16; modelopt's cast has none


def decoded(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and sha256 of every weight, as the converter decodes it."""
    checkpoint = open_source(folder).checkpoint
    with TensorReader() as reader:
        for name, tensor in checkpoint.tensors.items():
            whole = SourceTensor.from_checkpoint(name, tensor)
            for part in whole.parts or (whole,):
                if part.decoder is not None:
                    bits = reader.read(part, 0, part.nbytes).view(np.uint16)
                    positive = np.where(bits == NEGATIVE_ZERO, 0, bits)
                    raw = positive.astype(np.uint16).tobytes()
                    yield name, hashlib.sha256(raw).hexdigest()


def assert_decodes_as_the_library_did(folder: Path) -> None:
    expected = json.loads((folder / "decoded.json").read_text())
    assert sorted(x for _, x in decoded(folder)) == sorted(expected.values())
