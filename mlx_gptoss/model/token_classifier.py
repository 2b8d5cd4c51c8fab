"""A token classifier of gpt-oss's blocks, such as openai/privacy-filter.

Token ids in, logits of labels out; knows nothing of text, labels' names or files. It is
gpt-oss, `gpt_oss.py`, but for four things its config asks for:

- Every layer sees a band: `sliding_window` positions before a token, and after it.
- Rotary pairs are neighbours, not the two halves of a head.
- Rows of gate and up are stored one after another, not in turn.
- The head gives one logit a label, and has a bias.

transformers scales queries and keys by D^-1/4 each, and divides the experts' weights by
T before multiplying their sum by T: the same values as here, to rounding.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.format.layout import Structure
from mlx_gptoss.model.gpt_oss import Transformer
from mlx_gptoss.model.linear import make_linear


class TokenClassifier(nn.Module):
    """The whole model; `mlx_gptoss.checkpoint` loads its parameters."""

    def __init__(self, config: ModelConfig, structure: Structure) -> None:
        super().__init__()
        self.config = config
        self.structure = structure
        self.model = Transformer(config, structure)
        quantization = structure.quantization.get("score")
        self.score = make_linear(config.hidden_size, len(config.labels), quantization)
        self.eval()

    def __call__(self, ids: mx.array, lengths: Sequence[int] | None = None) -> mx.array:
        """Return float32 logits of every label: (B, L) int32 -> (B, L, C).

        With `lengths`, texts are packed one after another into (1, N), and each token
        sees only its own text.
        """
        hidden = self.model(ids, None, lengths=lengths)
        return self.score(hidden).astype(mx.float32)
