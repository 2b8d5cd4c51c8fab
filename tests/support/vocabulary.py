"""The real o200k vocabulary for tests, through openai_harmony; no download.

`O200k` has what `mlx_gptoss.harmony` asks of a tokenizer: encode, special,
specials, token_bytes.
"""

from functools import cache
from pathlib import Path

import openai_harmony

SPECIALS = {
    "<|startoftext|>": 199998,
    "<|endoftext|>": 199999,
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}
FIRST_SPECIAL = 199998
VOCABULARY_SIZE = 201088


@cache
def oracle() -> openai_harmony.HarmonyEncoding:
    return openai_harmony.load_harmony_encoding("HarmonyGptOss")


def is_oss_harmony() -> bool:
    """Whether it is the fork that bundles the vocabulary, not OpenAI's package."""
    installed = Path(openai_harmony.__file__).parents[1]
    return any(installed.glob("oss_harmony-*.dist-info"))


class O200k:
    """The vocabulary of gpt-oss: text and ids, special tokens by name."""

    specials = SPECIALS
    vocab_size = VOCABULARY_SIZE

    def encode(self, text: str) -> list[int]:
        return oracle().encode(text, disallowed_special=())

    def special(self, name: str) -> int:
        return SPECIALS[name]

    def token_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < FIRST_SPECIAL:
            return b""
        return bytes(oracle()._inner.decode_bytes([token_id]))

    def decode(self, ids: list[int]) -> str:
        return oracle().decode(ids)


def ids_of(text: str) -> list[int]:
    """Encode text with special tokens by name."""
    return oracle().encode(text, allowed_special="all")
