"""A corpus: training and validation documents, counted once and read when needed.

    corpus = read_corpus(Path("chats.jsonl"), tokenizer, CorpusSettings())
    corpus.train[0].ids                # rendered from the file again
    corpus.train.tokens.sum()          # known from the first pass

The first pass renders every row, so that all mistakes are known before training; only
positions and counts are kept of it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mlx_gptoss.errors import ExamplesError, PromptError
from mlx_gptoss.workloads.tune.document_index import DocumentIndex, TrainingDocuments
from mlx_gptoss.workloads.tune.documents import (
    CHARACTERS_OF_TOKEN,
    Renderer,
    TrainingDocument,
    TrainingVocabulary,
)
from mlx_gptoss.workloads.tune.examples import PlainExample, TrainingExample
from mlx_gptoss.workloads.tune.settings import CorpusSettings
from mlx_gptoss.workloads.tune.sources import (
    Sources,
    UnreadableRow,
    valid_file_beside,
)

MOST_MISTAKES = 20
Progress = Callable[[int, int], None]  # bytes done, bytes in total


@dataclass
class _Counts:
    """The examples that the user is told about."""

    cut: int = 0
    longest_cut: tuple[int, str] = (0, "")
    nothing_learned: int = 0
    not_offered: int = 0
    first_not_offered: str = ""
    text_pairs: int = 0
    conversations: int = 0


@dataclass(frozen=True, eq=False)
class TuneCorpus:
    """Documents to train on and to validate with.

    `notices` are for the user; `digest` names the content and the settings, so that a
    resumed run can see that they are the same; `conversations` counts the examples
    that are rendered as Harmony.
    """

    train: TrainingDocuments
    valid: TrainingDocuments
    notices: tuple[str, ...]
    digest: str
    conversations: int = 0

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return {"train": self.train.summary(), "valid": self.valid.summary()}


def read_corpus(
    path: Path,
    vocabulary: TrainingVocabulary,
    settings: CorpusSettings,
    *,
    valid: Path | None = None,
    progress: Progress | None = None,
) -> TuneCorpus:
    """Read and check all examples of `path`, and of the `valid` file if there is one.

    Without one, a share of the rows is kept for validation, chosen by their content:
    the same row is always on the same side, and copies of it too.
    Raises ExamplesError, which names up to MOST_MISTAKES mistakes.
    """
    renderer = Renderer(vocabulary, settings)
    valid = valid or valid_file_beside(path)
    portion = CHARACTERS_OF_TOKEN * settings.length
    given = [Sources.of(one, portion=portion) for one in (path, valid) if one]
    total = sum(sources.total for sources in given)
    reader = _Reader(renderer, settings, progress, total)
    indexes = [reader.read(sources) for sources in given]
    reader.raise_mistakes()
    sides = [
        TrainingDocuments(sources, renderer, index, np.arange(len(index.row_of)))
        for sources, index in zip(given, indexes, strict=True)
    ]
    if len(sides) == 1:
        kept = _kept_for_validation(indexes[0], settings.valid_share)
        sides = [
            TrainingDocuments(given[0], renderer, indexes[0], np.flatnonzero(chosen))
            for chosen in (~kept, kept)
        ]
    if not len(sides[0]):
        raise ExamplesError([f"`{path}` has nothing to learn: see --train-on"])
    train, validation = sides
    return TuneCorpus(
        train,
        validation,
        tuple(reader.notices()),
        reader.digest(),
        conversations=reader.conversations,
    )


def _kept_for_validation(index: DocumentIndex, share: float) -> np.ndarray:
    """Return (documents,) bool: those of the rows with the smallest hashes.

    At least one row is kept and one is left, unless all are equal.
    """
    hashes = np.array(index.hashes, dtype=np.uint64)
    rows = np.array(index.row_of, dtype=np.int64)
    different = np.unique(hashes[np.unique(rows)])
    count = min(max(1, round(share * len(different))), len(different) - 1)
    if share == 0 or count < 1:
        return np.zeros(len(rows), dtype=bool)
    return hashes[rows] <= different[count - 1]


class _Reader:
    """Reads all rows once, collecting mistakes and what needs a word."""

    def __init__(
        self,
        renderer: Renderer,
        settings: CorpusSettings,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._renderer = renderer
        self._settings = settings
        self._progress = progress
        self._total = total
        self._done = 0
        self._mistakes: list[str] = []
        self._counts = _Counts()
        self._digest = blake2b(repr(settings).encode(), digest_size=16)

    def read(self, sources: Sources) -> DocumentIndex:
        index = DocumentIndex()
        for row, data in sources.rows():
            if len(self._mistakes) == MOST_MISTAKES:
                break
            if isinstance(data, UnreadableRow):
                self._mistakes.append(f"{sources.where(row)} {data}")
                continue
            self._digest.update(b"%d:" % len(data) + data)
            number = index.add_row(row, data)
            try:
                example = sources.example(row, data, self._settings)
                documents = self._renderer.documents(example, sources.where(row))
            except PromptError as error:
                self._mistakes.append(f"{sources.where(row)} {error}")
                continue
            self._count(example, documents, sources.where(row))
            for document in documents:
                if document.learned.any():
                    index.add_document(number, document)
            self._done += len(data)
            if self._progress is not None:
                self._progress(self._done, self._total)
        return index

    def raise_mistakes(self) -> None:
        if self._mistakes:
            more = len(self._mistakes) == MOST_MISTAKES
            raise ExamplesError(self._mistakes, more=more)

    def digest(self) -> str:
        return self._digest.hexdigest()

    @property
    def conversations(self) -> int:
        return self._counts.conversations

    def notices(self) -> Iterator[str]:
        """Yield the lines that tell the user what was done to the examples."""
        counts, settings = self._counts, self._settings
        if counts.cut:
            tokens, where = counts.longest_cut
            yield (
                f"{counts.cut:,} documents were cut to {settings.length:,} tokens; the "
                f"longest had {tokens:,} ({where})"
            )
        if counts.nothing_learned:
            yield (
                f"{counts.nothing_learned:,} examples have nothing to learn with "
                f"`--train-on {','.join(settings.train_on)}` within "
                f"{settings.length:,} tokens and are left out"
            )
        if counts.not_offered:
            yield (
                f"{counts.not_offered:,} conversations call a tool that their `tools` "
                f"do not offer ({counts.first_not_offered}): the model will too"
            )
        if counts.text_pairs:
            yield (
                "`prompt` and `completion` of text are learned as plain text, as "
                "`generate --raw` continues it; --pairs chat makes them questions and "
                "answers"
            )

    def _count(
        self,
        example: TrainingExample | PlainExample,
        documents: Sequence[TrainingDocument],
        where: str,
    ) -> None:
        counts = self._counts
        for document in documents:
            if document.full_tokens > len(document):
                counts.cut += 1
                counts.longest_cut = max(
                    counts.longest_cut, (document.full_tokens, where)
                )
        if not any(document.learned.any() for document in documents):
            counts.nothing_learned += 1
        if isinstance(example, PlainExample):
            counts.text_pairs += bool(example.prompt)
            return
        counts.conversations += 1
        if name := example.not_offered():
            counts.not_offered += 1
            first = f"first {where}: `{name}`"
            counts.first_not_offered = counts.first_not_offered or first
