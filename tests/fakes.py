"""Stand-ins that behave like the real parts: a vocabulary and a model by script.

    tokenizer = byte_tokenizer()                # 256 bytes + the Harmony tokens
    model = ScriptedModel([5, 6, 7])            # greedy decoding gives 5, 6, 7

The model counts what it is fed and keeps it in its cache, so that a test sees a
prompt read twice, a token skipped, or a cache that belongs to another request.
"""

from collections.abc import Sequence
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mlx_gptoss.tokenizer import BYTE_OF_CHARACTER, Tokenizer

SPECIALS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|return|>",
    "<|constrain|>",
    "<|channel|>",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|call|>",
)
BYTES = 256


def byte_vocabulary(specials: Sequence[str] = SPECIALS) -> tokenizers.Tokenizer:
    """Return a vocabulary whose ids 0..255 are bytes and 256.. the specials."""
    vocabulary = tokenizers.Tokenizer(models.BPE(vocab=BYTE_OF_CHARACTER, merges=[]))
    vocabulary.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    vocabulary.decoder = decoders.ByteLevel()
    vocabulary.add_special_tokens(list(specials))
    return vocabulary


def byte_tokenizer(specials: Sequence[str] = SPECIALS) -> Tokenizer:
    return Tokenizer(byte_vocabulary(specials), "bytes")


def write_tokenizer(folder: Path, specials: Sequence[str] = SPECIALS) -> None:
    byte_vocabulary(specials).save(str(folder / "tokenizer.json"))
