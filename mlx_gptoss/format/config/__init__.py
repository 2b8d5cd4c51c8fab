"""Parse and check `config.json`: sizes, layer types, rotary settings, quantization.

Reads dictionaries, not files, and knows nothing of tensors. Accepts the keys of Hugging
Face (`rope_scaling` or, since transformers 5, `rope_parameters`), of OpenAI's
`original/` folder (`num_experts`, `rope_scaling_factor`, ...) and of MLX
(`quantization`). An unsupported value that changes the maths is an error; harmless keys
are ignored; any other key is one warning, or an error when strict.
"""

from mlx_gptoss.format.config.keys import read_token_ids
from mlx_gptoss.format.config.labels import CLASSIFIER
from mlx_gptoss.format.config.model import BAND, FULL, SLIDING, ModelConfig
from mlx_gptoss.format.config.quantization import (
    AFFINE,
    MXFP4,
    QUANTIZATION_MODES,
    Quantization,
    parse_quantization,
)
from mlx_gptoss.format.config.rope import RopeScaling

__all__ = [
    "AFFINE",
    "BAND",
    "CLASSIFIER",
    "FULL",
    "MXFP4",
    "QUANTIZATION_MODES",
    "SLIDING",
    "ModelConfig",
    "Quantization",
    "RopeScaling",
    "parse_quantization",
    "read_token_ids",
]
