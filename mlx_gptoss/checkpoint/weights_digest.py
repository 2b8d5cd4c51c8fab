"""A digest of a checkpoint's config and weights, from a sample of them.

Hashing all weights would take as long as reading them, so the digest covers the first
and last bytes of each tensor, and the names, types and shapes of all.
"""

import hashlib
import json
from pathlib import Path

from mlx_gptoss.checkpoint.checkpoint import Checkpoint

SAMPLE_BYTES = 4096
DIGEST_BYTES = 16


def weights_digest(checkpoint: Checkpoint) -> str:
    """Return the digest (hex) of a checkpoint; equal copies have equal ones."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(json.dumps(checkpoint.raw_config, sort_keys=True).encode())
    for file in sorted(checkpoint.files):
        add_tensors(digest, file, checkpoint)
    return digest.hexdigest()


def add_tensors(digest: "hashlib.blake2b", path: Path, checkpoint: Checkpoint) -> None:
    """Add the tensors of one file to a digest."""
    tensors = [x for x in checkpoint.stored_parts if x.file == path]
    with path.open("rb") as file:
        for tensor in sorted(tensors, key=lambda x: x.offset):
            digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
            for start in (tensor.offset, tensor.offset + tensor.nbytes - SAMPLE_BYTES):
                file.seek(max(start, tensor.offset))
                digest.update(file.read(min(SAMPLE_BYTES, tensor.nbytes)))
