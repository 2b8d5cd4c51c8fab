"""Present the tensors of a form that MLX does not compute as floats.

Which form a checkpoint has is found by `mlx_gptoss.format.foreign_forms`.
"""

from collections.abc import Mapping

from mlx_gptoss.checkpoint import StoredTensor
from mlx_gptoss.format.foreign_forms import (
    BITSANDBYTES,
    COMPRESSED,
    MODELOPT,
    PackedForm,
)
from mlx_gptoss_convert.read.bitsandbytes import decode_bitsandbytes
from mlx_gptoss_convert.read.nvfp4 import decode_compressed, decode_modelopt

DECODERS = {
    BITSANDBYTES: decode_bitsandbytes,
    MODELOPT: decode_modelopt,
    COMPRESSED: decode_compressed,
}


def decode_form(
    form: PackedForm, stored: Mapping[str, StoredTensor]
) -> Mapping[str, StoredTensor]:
    """Present every quantized weight as floats, the other tensors as they are."""
    return DECODERS[form](stored)
