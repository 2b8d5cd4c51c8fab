"""A digest of all that keys and values depend on: weights, config, runtime, adapter.

Processes with the same digest can share saved prompts; with any other digest they are
useless. Of the weights it covers a sample (see weights_digest.py), and the size and
modification time of each file.
"""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.weights_digest import DIGEST_BYTES, add_tensors

DEVICE_KEYS = ("architecture", "device_name")


def cache_digest(checkpoint: Checkpoint, dtype: mx.Dtype) -> str:
    """Return the digest (hex) of a checkpoint computed in `dtype` by this runtime."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    digest.update(json.dumps(describe_runtime(dtype), sort_keys=True).encode())
    digest.update(json.dumps(checkpoint.raw_config, sort_keys=True).encode())
    for file in sorted(checkpoint.files):
        _add_file(digest, file, checkpoint)
    return digest.hexdigest()


def digest_with_adapter(digest: str, adapter: str) -> str:
    """Return the digest (hex) of a model that computes with an adapter.

    `digest` is that of the model, `adapter` that of the adapter.
    """
    both = hashlib.blake2b(digest_size=DIGEST_BYTES)
    both.update(json.dumps([digest, adapter]).encode())
    return both.hexdigest()


def describe_runtime(dtype: mx.Dtype) -> dict[str, str]:
    """Return versions, device and dtype."""
    facts = mx.device_info()
    device = {key: str(facts.get(key, "")) for key in DEVICE_KEYS}
    return device | {
        "mlx": version("mlx"),
        "mlx_gptoss": version("mlx-gptoss"),
        "default_device": str(mx.default_device()),
        "dtype": str(dtype),
    }


def _add_file(digest: "hashlib.blake2b", path: Path, checkpoint: Checkpoint) -> None:
    facts = path.stat()
    digest.update(f"{path.name} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    add_tensors(digest, path, checkpoint)
