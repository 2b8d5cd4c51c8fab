"""Digests of adapters and of the models they belong to."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields

import numpy as np

from mlx_gptoss.checkpoint.adapters.update import WeightUpdate
from mlx_gptoss.format.config import ModelConfig


def config_digest(config: ModelConfig) -> str:
    """Return the SHA-256 of the sizes and constants of a model, stop tokens left out.

    Conversions of one checkpoint share it; other fine-tunes of the model do, too. A
    field at its default is left out: adapters may be older than the field.
    """
    values = asdict(config)
    del values["eos_token_ids"]
    for field in fields(config):
        if values.get(field.name) == field.default:
            del values[field.name]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def updates_digest(updates: Iterable[tuple[str, WeightUpdate]], base: str) -> str:
    """Return the SHA-256 of updates in float32, in ascending order of paths.

    `base` identifies the model. Equal to `mlx_gptoss.model.adapters.updates_digest` of
    the same updates as MLX arrays.
    """
    digest = hashlib.sha256(base.encode())
    for path, update in updates:
        for kind, matrix in (("a", update.a), ("b", update.b)):
            digest.update(f"\n{path} {kind} {matrix.shape}\n".encode())
            digest.update(np.ascontiguousarray(matrix, np.float32).data)
    return digest.hexdigest()
