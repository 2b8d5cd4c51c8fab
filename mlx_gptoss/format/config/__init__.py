"""What `config.json` says, checked: sizes, layer kinds, rotary settings, quantization.

Reads dictionaries, not files, and knows nothing of tensors. Accepts the spellings of
Hugging Face (`rope_scaling` or, since transformers 5, `rope_parameters`), of OpenAI's
`original/` folder (`num_experts`, `rope_scaling_factor`, ...) and of MLX
(`quantization`). A key of the maths with a value the model cannot do is an error; keys
known to be harmless are ignored; any other key is one warning, or an error when strict.
"""

from mlx_gptoss.format.config.keys import read_token_ids
from mlx_gptoss.format.config.model import FULL, SLIDING, ModelConfig
from mlx_gptoss.format.config.quantization import (
    MXFP4,
    QUANTIZATION_MODES,
    Quantization,
    parse_quantization,
)
from mlx_gptoss.format.config.rope import RopeScaling

__all__ = [
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
