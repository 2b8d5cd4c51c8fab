"""Text to token ids and back, from a checkpoint's `tokenizer.json`.

    tokenizer = Tokenizer.open(folder)

tokenizer.py      encode, decode, stream; special tokens by name
settings.py       settings of the file that would change a prompt, turned off
text_splitter.py  split a long text without changing its tokens

Knows nothing of Harmony's grammar; does not import MLX.
"""

from mlx_gptoss.checkpoint.tokenizer.tokenizer import (
    BYTE_OF_CHARACTER,
    Detokenizer,
    Tokenizer,
    has_harmony,
)

__all__ = ["BYTE_OF_CHARACTER", "Detokenizer", "Tokenizer", "has_harmony"]
