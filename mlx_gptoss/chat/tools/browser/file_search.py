"""Rank files by the words of a query (tf-idf). Texts in, files out; opens nothing."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

NAME_WEIGHT = 3.0  # a word in the name counts as much as three in the text
SNIPPET_CHARACTERS = 200  # characters
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class SearchedFile:
    """A file in a search."""

    address: str
    text: str

    def score(self, words: set[str], all_texts: Sequence["SearchedFile"]) -> float:
        """Return how well the file matches: rare words count more."""
        total = 0.0
        for word in words:
            times = self.counts[word] + NAME_WEIGHT * (word in self.address.lower())
            if times:
                having = sum(1 for one in all_texts if word in one.counts) or 1
                rare = math.log(1 + len(all_texts) / having)
                total += (1 + math.log(times)) * rare
        return total

    @cached_property
    def counts(self) -> Counter[str]:
        """The number of occurrences of each word."""
        return Counter(WORD.findall(self.text.lower()))

    def snippet(self, words: set[str]) -> str:
        """Return the line with the most words of the query."""
        lines = [" ".join(line.split()) for line in self.text.split("\n")]
        line = max(lines, key=lambda one: len(words & set(WORD.findall(one.lower()))))
        return (
            line if len(line) <= SNIPPET_CHARACTERS else line[:SNIPPET_CHARACTERS] + "…"
        )


def words_of(text: str) -> set[str]:
    """Return the words of a text, in lower case."""
    return set(WORD.findall(text.lower()))


def best_files(texts: Iterable[tuple[str, str]], words: set[str]) -> list[SearchedFile]:
    """Return the files with any of `words`, the best first.

    `texts` are pairs of an address and a text.
    """
    files = [SearchedFile(address, text) for address, text in texts]
    scores = {file.address: file.score(words, files) for file in files}
    ranked = sorted(files, key=lambda file: (-scores[file.address], file.address))
    return [file for file in ranked if scores[file.address] > 0]
