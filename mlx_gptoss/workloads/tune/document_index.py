"""Documents by number: where their rows are and how many tokens they have.

The ids themselves are not kept: a document is rendered from its file again.
"""

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np

from mlx_gptoss.errors import ExamplesError
from mlx_gptoss.harmony.messages import ToolDescription, function_tools
from mlx_gptoss.workloads.tune.documents import Renderer, TrainingDocument
from mlx_gptoss.workloads.tune.examples import PlainExample, TrainingExample
from mlx_gptoss.workloads.tune.sources import Sources, StoredRow, changed


def row_hash(data: bytes) -> int:
    """Return 64 bits that name the content of a row, whatever ends its line."""
    return int.from_bytes(blake2b(data.strip(), digest_size=8).digest())


class DocumentIndex:
    """Places of rows and sizes of documents: 40 and 16 bytes for each."""

    def __init__(self) -> None:
        self.rows = array("q")  # file, offset, size, line of each
        self.hashes = array("Q")
        self.row_of = array("i")
        self.part_of = array("i")
        self.tokens = array("i")
        self.learned = array("i")

    def row(self, number: int) -> StoredRow:
        return StoredRow(*self.rows[4 * number : 4 * number + 4])

    def add_row(self, row: StoredRow, data: bytes) -> int:
        self.rows.extend(row)
        self.hashes.append(row_hash(data))
        return len(self.hashes) - 1

    def add_document(self, row: int, document: TrainingDocument) -> None:
        self.row_of.append(row)
        self.part_of.append(document.part)
        self.tokens.append(len(document))
        self.learned.append(int(document.learned.sum()))


class TrainingDocuments:
    """Some documents of a corpus, rendered from their file when they are asked for.

    `tokens` and `learned` (n,) int32 are the numbers of tokens of each.
    """

    def __init__(
        self,
        sources: Sources,
        renderer: Renderer,
        index: DocumentIndex,
        chosen: np.ndarray,
    ) -> None:
        self._sources = sources
        self._renderer = renderer
        self._index = index
        self._chosen = chosen
        self.tokens = np.array(index.tokens, dtype=np.int32)[chosen]
        self.learned = np.array(index.learned, dtype=np.int32)[chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[TrainingDocument]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> TrainingDocument:
        """Render document `number`; raises ExamplesError if its row has changed."""
        part = self._index.part_of[int(self._chosen[number])]
        return self._renderer.part(self._example(number), part, self.where(number))

    def tools(self, number: int) -> tuple[ToolDescription, ...]:
        """Return the function tools that the conversation of a document offers."""
        example = self._example(number)
        messages = example.messages if isinstance(example, TrainingExample) else ()
        return function_tools(messages)

    def where(self, number: int) -> str:
        """Name the file and line of a document without rendering it."""
        place = int(self._chosen[number])
        return self._sources.where(self._index.row(self._index.row_of[place]))

    def summary(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        longest = int(self.tokens.argmax()) if len(self) else None
        return {
            "documents": len(self),
            "learned_tokens": int(self.learned.sum(dtype=np.int64)),
            "tokens": int(self.tokens.sum(dtype=np.int64)),
            "longest": 0 if longest is None else int(self.tokens[longest]),
            "longest_at": None if longest is None else self.where(longest),
        }

    def _example(self, number: int) -> TrainingExample | PlainExample:
        """Read the example of a document again."""
        row_number = self._index.row_of[int(self._chosen[number])]
        row = self._index.row(row_number)
        data = self._sources.read(row)
        if row_hash(data) != self._index.hashes[row_number]:
            raise ExamplesError([changed(self._sources.where(row))])
        return self._sources.example(row, data, self._renderer.settings)
