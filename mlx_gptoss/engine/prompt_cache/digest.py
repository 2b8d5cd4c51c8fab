"""What computed a cache: a digest of weights, config, dtype and runtime.

Keys and values of one digest can be exchanged between processes; those of another are
of no use, however little may have changed. Hashing all weights would take as long as
reading them, so of each tensor the first and last bytes count, and of each file its
size and time of change.
"""

import hashlib
import json
import os
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint

SAMPLE_BYTES = 4096
DIGEST_BYTES = 16
DEVICE_KEYS = ("architecture", "device_name")


def cache_digest(checkpoint: Checkpoint, dtype: mx.Dtype) -> str:
    """Digest all that the keys and values of a prompt depend on."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(json.dumps(describe_runtime(dtype), sort_keys=True).encode())
    digest.update(json.dumps(checkpoint.raw_config, sort_keys=True).encode())
    for file in sorted(checkpoint.files):
        _add_file(digest, file, checkpoint)
    return digest.hexdigest()


def describe_runtime(dtype: mx.Dtype) -> dict[str, str]:
    """Name what computes: versions, device and dtype."""
    facts = mx.device_info()
    device = {key: str(facts.get(key, "")) for key in DEVICE_KEYS}
    return device | {
        "mlx": version("mlx"),
        "mlx_gptoss": version("mlx-gptoss"),
        "default_device": str(mx.default_device()),
        "dtype": str(dtype),
    }


def _add_file(digest: "hashlib.blake2b", path: Path, checkpoint: Checkpoint) -> None:
    tensors = [x for x in checkpoint.tensors.values() if x.file == path]
    with path.open("rb") as file:
        facts = os.fstat(file.fileno())
        digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        for tensor in sorted(tensors, key=lambda x: x.offset):
            digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
            for start in (tensor.offset, tensor.offset + tensor.nbytes - SAMPLE_BYTES):
                file.seek(max(start, tensor.offset))
                digest.update(file.read(min(SAMPLE_BYTES, tensor.nbytes)))
