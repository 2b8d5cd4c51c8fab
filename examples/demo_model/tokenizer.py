"""The demo model's tokenizer: a small byte-level BPE in an ordinary `tokenizer.json`.

Digits stay single. While merges are learned the space is kept apart from words,
then the commonest words get a form with the space: so a name has the same pieces
after a space and after a quote, and copying it is copying tokens.

`python -m examples.demo_model.tokenizer OUT.json` trains it in seconds.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
    trainers,
)

from examples.demo_model import words
from examples.demo_model.data import Author, branch_pieces

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
VOCABULARY_SIZE = 1280
GLUED_WORDS = 200  # template words that also get a form with the space before them
DOCUMENTS = 4000
SEED = 12345
SPACE = "Ġ"  # how byte-level BPE writes a space
LEARNING_SPLIT = r"\p{L}+|\p{N}| |[^\s\p{L}\p{N}]+|\s+"
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
COPIED = frozenset(
    word
    for group in (
        words.NAMES,
        words.CITIES,
        words.WORDS,
        words.COLORS,
        words.FOODS,
        words.JOBS,
        words.VERBS,
        words.NOUNS,
        words.ARGUMENTS,
        words.RESULT_KEYS,
    )
    for word in group
)


def train(seed: int = SEED) -> Tokenizer:
    """Learn the vocabulary from documents of the generator; the same for a seed."""
    texts = _texts(Author(seed))
    size = VOCABULARY_SIZE - GLUED_WORDS - len(SPECIALS)
    vocabulary, merges = _learn(texts, size)
    for word in _words_to_glue(texts, vocabulary):
        merges.append((SPACE, word))
        vocabulary[SPACE + word] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = _splitting(SPLIT)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in SPECIALS]
    )
    return tokenizer


def _texts(author: Author) -> list[str]:
    texts = []
    for _ in range(DOCUMENTS):
        document = author.document()
        for number, branch in enumerate(document.branches):
            start, pieces = branch_pieces(document.start, branch)
            both = pieces if number else start + pieces
            texts += [piece.text for piece in both if not piece.special]
    return texts


def _splitting(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _learn(texts: list[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _splitting(LEARNING_SPLIT)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        min_frequency=8,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def _words_to_glue(texts: list[str], vocabulary: dict[str, int]) -> list[str]:
    """The commonest words after a space that are template, never to be copied."""
    counts = Counter(
        word
        for text in texts
        for word in re.findall(r" ([A-Za-z]+|[^\sA-Za-z0-9]+)", text)
    )
    wanted = [
        word
        for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if word in vocabulary
        and word not in COPIED
        and (len(word) > 1 or not word.isalpha() or word in "Ia")
    ]
    return wanted[:GLUED_WORDS]


class Encoder:
    """The tokenizer as `harmony.render` wants it; short texts are remembered."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    @classmethod
    def open(cls, path: Path) -> "Encoder":
        return cls(Tokenizer.from_file(str(path)))

    def encode(self, text: str) -> list[int]:
        known = self._known.get(text)
        if known is None:
            known = self.tokenizer.encode(text).ids
            if len(self._known) < 50_000:
                self._known[text] = known
        return known

    def special(self, name: str) -> int:
        number = self.tokenizer.token_to_id(name)
        assert number is not None, name
        return number


if __name__ == "__main__":
    train().save(sys.argv[1])
