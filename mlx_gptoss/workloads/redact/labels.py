"""The labels of a token classifier: their meaning, and which may follow which.

Tags are BIOES as openai/privacy-filter's (B begins a span, I continues and E ends it, S
is a span of one token, O is outside), BILOU (L and U for E and S), BIO, or plain names
without tags, as fine-tunes have them. Knows names and numbers, no text.
"""

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from mlx_gptoss.errors import ConfigError

OUTSIDE = ("O", "0", "LABEL_0", "OUTSIDE")
TAGGED = re.compile(r"([BIESLU])[-_.](.+)", re.DOTALL)
SAME_TAGS = {"L": "E", "U": "S"}
FORBIDDEN = -np.inf


@dataclass(frozen=True)
class Biases:
    """Added to the scores of transitions: more of one, more of what it leads to.

    The six numbers of `viterbi_calibration.json`, in the units of logits.
    """

    background_stay: float = 0.0
    background_to_start: float = 0.0
    inside_to_continue: float = 0.0
    inside_to_end: float = 0.0
    end_to_background: float = 0.0
    end_to_start: float = 0.0

    def leaning(self, amount: float) -> "Biases":
        """Return biases that find more, or with a negative amount less.

        Spans begin and join each other more easily, and text stays outside less.
        """
        return replace(
            self,
            background_stay=self.background_stay - amount,
            background_to_start=self.background_to_start + amount,
            end_to_start=self.end_to_start + amount,
        )


@dataclass(frozen=True)
class Label:
    """One label: its tag (B, I, E, S or O) and the category, "" outside."""

    tag: str
    category: str


@dataclass(frozen=True)
class LabelScheme:
    """The labels of a classifier by number."""

    labels: tuple[Label, ...]

    @classmethod
    def parse(cls, names: tuple[str, ...]) -> "LabelScheme":
        """Read the names of `id2label`. Raises ConfigError without a label outside."""
        tagged = [TAGGED.fullmatch(name) for name in names]
        found = [
            Label("O", "")
            if name in OUTSIDE
            else Label(SAME_TAGS.get(match[1], match[1]), match[2])
            if match is not None
            else Label("I", name)
            for name, match in zip(names, tagged, strict=True)
        ]
        if not any(label.tag == "O" for label in found):
            raise ConfigError(
                f"`id2label` of `config.json` has no label `O` for text outside of "
                f"spans among {len(names)}: use a model of token classification"
            )
        return cls(tuple(found))

    @cached_property
    def categories(self) -> tuple[str, ...]:
        """All categories, in the order of the labels."""
        found = dict.fromkeys(label.category for label in self.labels)
        return tuple(name for name in found if name)

    @cached_property
    def category_numbers(self) -> np.ndarray:
        """The number of each label's category, -1 outside: (C,) int."""
        places = {name: n for n, name in enumerate(self.categories)}
        return np.array([places.get(label.category, -1) for label in self.labels])

    @cached_property
    def _closed(self) -> set[str]:
        """The categories whose spans must end with E or be an S."""
        return {label.category for label in self.labels if label.tag == "E"}

    @cached_property
    def _opened(self) -> set[str]:
        """The categories whose spans must begin with B, or be an S."""
        return {label.category for label in self.labels if label.tag == "B"}

    def may_begin(self, label: Label) -> bool:
        """Whether a text, or what follows a span, may begin with it."""
        return label.tag in "OBS" or label.category not in self._opened

    def may_end(self, label: Label) -> bool:
        """Whether a text, or a span, may end with it."""
        return label.tag in "OES" or label.category not in self._closed

    def transitions(self, biases: Biases) -> np.ndarray:
        """Return the score of each transition, (C, C): from a row to a column."""
        return np.array(
            [[self._score(a, b, biases) for b in self.labels] for a in self.labels],
            np.float32,
        )

    def _score(self, before: Label, after: Label, biases: Biases) -> float:
        inside = before.tag in "BI" and after.tag in "IE"
        if inside and before.category == after.category:
            ends = after.tag == "E"
            return biases.inside_to_end if ends else biases.inside_to_continue
        if not (self.may_end(before) and self.may_begin(after)):
            return FORBIDDEN
        if before.tag == "O":
            outside = after.tag == "O"
            return biases.background_stay if outside else biases.background_to_start
        return biases.end_to_background if after.tag == "O" else biases.end_to_start

    def starts(self) -> np.ndarray:
        """Return 0 for labels that may begin a text, else -inf: (C,) float32."""
        return self._allowed([self.may_begin(label) for label in self.labels])

    def ends(self) -> np.ndarray:
        """Return 0 for labels that may end a text, else -inf: (C,) float32."""
        return self._allowed([self.may_end(label) for label in self.labels])

    @staticmethod
    def _allowed(found: list[bool]) -> np.ndarray:
        return np.where(found, np.float32(0), np.float32(FORBIDDEN))

    def spans(self, path: np.ndarray) -> list[tuple[int, int, str]]:
        """Return the spans of a path of labels: first token, one past the last, name.

        A span goes on with I and E of its category, and ends with anything else.
        """
        found: list[tuple[int, int, str]] = []
        start, open_category = 0, ""
        for place, number in enumerate([*path.tolist(), None]):
            label = Label("O", "") if number is None else self.labels[number]
            goes_on = label.tag in "IE" and label.category == open_category
            if open_category and not goes_on:
                found.append((start, place, open_category))
                open_category = ""
            if label.category and not open_category:
                start, open_category = place, label.category
            if label.tag in "ES" and open_category:
                found.append((start, place + 1, open_category))
                open_category = ""
        return found
