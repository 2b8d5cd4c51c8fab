"""The demo model's tokenizer: a small byte-level BPE in an ordinary `tokenizer.json`.

Digits are single tokens, and so are the syllables of made-up words. Only common
template words have a form with the space: any other word has the same tokens after a
space, a quote or an underscore, so that copying a word is copying tokens.

`python -m examples.demo_model.tokenizer OUT.json` trains it in seconds.
"""

import itertools
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
VOCABULARY_SIZE = 1536
GLUED_WORDS = 200  # template words that also get a form with the space before them
DOCUMENTS = 4000
SEED = 12345
SPACE = "Ġ"  # how byte-level BPE writes a space
PHRASES = (  # one token each: what every prompt and every sum repeats
    "You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n",
    "Current date: ",
    "\nReasoning: ",
    "\n\n# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.",
    "\nCalls to these tools must go to the commentary channel: 'functions'.",
    "# Instructions\n\n",
    "# Tools\n\n## functions\n\nnamespace functions {\n\n",
    "} // namespace functions",
    " = (_: {\n",
    "}) => any;\n\n",
    " = () => any;\n\n",
    ": string,\n",
    ": number,\n",
    ": boolean,\n",
    " carry ",
    " borrow ",
    " digits ",
    ": hundreds ",
    ", hundreds ",
    ", tens ",
    ", ones ",
    "; ones ",
)
RARE = 40  # words seen less often are made up: their merges are not learned
SPLIT = r"{}| (?:{})(?!\p{{L}})|\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
WORD = re.compile(r"[A-Za-z]+|[^\sA-Za-z0-9]+")
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
    """Train the vocabulary on generated documents; deterministic for a seed."""
    texts = _texts(Author(seed))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = _syllable_merges()
    size = VOCABULARY_SIZE - GLUED_WORDS - len(SPECIALS) - len(PHRASES) - len(alphabet)
    merges += _learned(texts, merges, size - len(merges))
    whole = {left + right for left, right in merges} | set(alphabet)
    glued = _words_to_glue(texts, whole)
    merges += [(SPACE, word) for word in glued]
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    phrases = [bytewise.pre_tokenize_str(phrase)[0][0] for phrase in PHRASES]
    pieces = [*alphabet, *(left + right for left, right in merges), *phrases]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)
    tokenizer = Tokenizer(model)
    split = SPLIT.format(
        "|".join(re.escape(phrase) for phrase in PHRASES),
        "|".join(word for word in glued if word.isalpha()),
    )
    tokenizer.pre_tokenizer = _splitting(split)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in SPECIALS]
    )
    return tokenizer


def _syllable_merges() -> list[tuple[str, str]]:
    """Return merges that build every syllable, also capitalised, before any others."""
    doubles = [x for x in (*words.VOWELS, *words.CONSONANTS) if len(x) == 2]
    starts = [x for x in words.CONSONANTS if len(x) == 2]
    merges = [(x[0], x[1]) for x in doubles]
    merges += [(x[0].upper(), x[1]) for x in starts]
    for consonant in words.CONSONANTS:
        for start in (consonant, consonant.capitalize()):
            merges += [(start, vowel) for vowel in words.VOWELS]
    return merges


def _learned(
    texts: list[str], merges: list[tuple[str, str]], count: int
) -> list[tuple[str, str]]:
    """Return the `count` most common further merges within known words."""
    seen = Counter(word for text in texts for word in WORD.findall(text))
    known = {word: number for word, number in seen.items() if number >= RARE}
    split = {word: list(word) for word in known if word.isascii()}
    for pair in merges:
        for word in split:
            split[word] = _merged(split[word], pair)
    learned = []
    while len(learned) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in split.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += known[word]
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        for word, pieces in split.items():
            if best[0] in pieces:
                split[word] = _merged(pieces, best)
    return learned


def _merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


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


def _words_to_glue(texts: list[str], vocabulary: set[str]) -> list[str]:
    """Return the most common template words after a space, which are never copied."""
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
    """The tokenizer in the form `harmony.render` expects; caches short texts."""

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
