"""Render examples as documents of token ids, with a mask of what is learned.

    renderer = Renderer(tokenizer, settings)
    example = read_example(json.loads(line), settings)
    for document in renderer.documents(example): document.ids, document.learned

A conversation becomes a document for some of its turns (see `turns.py`). Plain text is
divided at the ends of lines or words into documents of at most the longest length.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import Protocol

import numpy as np

from mlx_gptoss.errors import ExamplesError, PromptError
from mlx_gptoss.harmony.render.encode import Vocabulary, whole_characters
from mlx_gptoss.harmony.render.pieces import Piece
from mlx_gptoss.harmony.special_tokens import END_OF_TEXT, START
from mlx_gptoss.workloads.tune.examples import PlainExample, TrainingExample
from mlx_gptoss.workloads.tune.settings import SHORTEST, CorpusSettings
from mlx_gptoss.workloads.tune.turns import example_documents

CHARACTERS_OF_TOKEN = 4  # about, in English
REPEATED_TEXTS = 512  # encoded texts that are kept
LONGEST_REPEATED = 2**12  # characters
MOST_WINDOWS = 2**12  # in one stretch of text: a document's part is a number of both
Encoded = tuple[list[int], list[bool]]  # ids, and which of them are learned


class TrainingVocabulary(Vocabulary, Protocol):
    """The part of a tokenizer that rendering examples uses."""

    @property
    def specials(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, eq=False)
class TrainingDocument:
    """Token ids (n,) int32; `learned` (n,) bool marks those the model is to write.

    A token is predicted from those before it, so the first is never learned. `where`
    is the file and line, `part` tells the documents of an example apart, `full_tokens`
    is the length before it was cut.
    """

    ids: np.ndarray
    learned: np.ndarray
    where: str = ""
    part: int = 0
    full_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class Renderer:
    """Renders examples as documents of at most `settings.length` tokens."""

    def __init__(
        self, vocabulary: TrainingVocabulary, settings: CorpusSettings
    ) -> None:
        self.vocabulary = vocabulary
        self.settings = settings
        self._encode_again = lru_cache(REPEATED_TEXTS)(vocabulary.encode)

    def documents(
        self, example: TrainingExample | PlainExample, where: str = ""
    ) -> list[TrainingDocument]:
        """Return all documents of an example.

        Raises PromptError, and ExamplesError for a conversation if the vocabulary has
        no Harmony tokens.
        """
        if isinstance(example, TrainingExample):
            found = enumerate(map(self._encoded, self._conversation(example)))
        elif example.prompt:
            found = [(0, self._pair(example))]
        else:
            found = (
                (number * MOST_WINDOWS + window, encoded)
                for number, text in enumerate(self._stretches(example))
                for window, encoded in enumerate(self._windows(*text))
            )
        return [self._finished(encoded, part, where) for part, encoded in found]

    def part(
        self, example: TrainingExample | PlainExample, part: int, where: str = ""
    ) -> TrainingDocument:
        """Return the document with that `part` without encoding the others."""
        if isinstance(example, TrainingExample):
            encoded = self._encoded(self._conversation(example)[part])
        elif example.prompt:
            encoded = self._pair(example)
        else:
            number, window = divmod(part, MOST_WINDOWS)
            text = next(islice(self._stretches(example), number, None))
            encoded = self._windows(*text)[window]
        return self._finished(encoded, part, where)

    def _conversation(self, example: TrainingExample) -> list[list[Piece]]:
        if START not in self.vocabulary.specials:
            raise ExamplesError(
                [
                    "the model's tokenizer has no Harmony tokens, so it cannot learn "
                    "conversations: give plain text, or another model"
                ]
            )
        return example_documents(
            example,
            train_on=self.settings.train_on,
            recipient_in=self.settings.recipient_in,
        )

    def _encoded(self, pieces: Sequence[Piece]) -> Encoded:
        ids: list[int] = []
        learned: list[bool] = []
        for piece in pieces:
            if piece.special:
                own = [self.vocabulary.special(piece.text)]
            else:
                own = self._text(piece.text)
            ids += own
            learned += [piece.target] * len(own)
        return ids, learned

    def _pair(self, example: PlainExample) -> Encoded:
        prompt = list(self._text(example.prompt))
        learned = [*self._text(example.completion), *self._end(example.ends)]
        return prompt + learned, [False] * len(prompt) + [True] * len(learned)

    def _stretches(self, example: PlainExample) -> Iterator[tuple[str, bool]]:
        """Cut a text into stretches, each with whether the document ends behind it.

        They are encoded apart, so that any can be read again without the others.
        """
        text, most = example.completion, CHARACTERS_OF_TOKEN * self.settings.length
        start = 0
        while start < len(text):
            stop = end_of_words(text, start, start + most)
            yield text[start:stop], example.ends and stop == len(text)
            start = stop

    def _windows(self, text: str, ends: bool) -> list[Encoded]:
        """Encode a stretch in equal parts of at most `length` tokens."""
        ids = [*self._text(text), *self._end(ends)]
        count = -(-len(ids) // self.settings.length)
        cuts = [len(ids) * place // count for place in range(count + 1)]
        parts = [ids[start:stop] for start, stop in pairwise(cuts)]
        return [(part, [True] * len(part)) for part in parts if len(part) >= SHORTEST]

    def _text(self, text: str) -> Sequence[int]:
        """Encode text; headers, prompts and tools repeat in many documents."""
        repeats = len(text) <= LONGEST_REPEATED
        encode = self._encode_again if repeats else self.vocabulary.encode
        return encode(whole_characters(text))

    def _end(self, ends: bool) -> list[int]:
        """Return the token behind the end of a text, if the vocabulary has one."""
        end = self.vocabulary.specials.get(END_OF_TEXT)
        return [end] if ends and end is not None else []

    def _finished(self, encoded: Encoded, part: int, where: str) -> TrainingDocument:
        """Cut a document that is too long, or refuse it, as the settings say."""
        ids, learned = encoded
        most, full = self.settings.length, len(ids)
        if full > most and self.settings.too_long == "refuse":
            raise PromptError(
                f"has {full:,} tokens, more than {most:,}: raise --length, or cut it "
                "with --too-long cut"
            )
        return TrainingDocument(
            np.array(ids[:most], dtype=np.int32),
            np.array([False, *learned[1:most]], dtype=bool),
            where,
            part,
            full,
        )


def end_of_words(text: str, start: int, stop: int) -> int:
    """Return where to cut a text before `stop`: behind a line, else before a space."""
    if stop >= len(text):
        return len(text)
    half = (start + stop) // 2
    if (place := text.rfind("\n", half, stop)) >= 0:
        return place + 1
    place = text.rfind(" ", half, stop)
    return place if place > start else stop
