"""The matrices of a model that an adapter can update, by module path.

Knows the names of a model; nothing of files.
"""

from functools import lru_cache

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import EMBEDDING, PACKED, Matrix, matrices


@lru_cache(maxsize=8)
def target_matrices(config: ModelConfig) -> dict[str, Matrix]:
    """Map each module path to its matrix (out, in), or (E, out, in) of experts.

    Gate and up are one matrix, `gate_up_proj`. The embedding is not among them.
    """
    found = matrices(config, PACKED)
    return {each.path: each for each in found if each.part != EMBEDDING}
