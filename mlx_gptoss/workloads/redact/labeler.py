"""Text in, spans of a token classifier out: long texts in chunks, short ones together.

A label depends on `reach` tokens either way and on no others (layers times band), so a
chunk is computed with that many tokens around it, and its labels are those of one pass
over the whole text. Memory: that of one chunk, and 200 bytes a token for decoding.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import load_classifier, open_checkpoint
from mlx_gptoss.checkpoint.checkpoint import require_kind
from mlx_gptoss.checkpoint.json_files import read_json
from mlx_gptoss.checkpoint.load import Progress
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.errors import CheckpointError, ConfigError
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.model.token_classifier import TokenClassifier
from mlx_gptoss.workloads.redact.labels import Biases, LabelScheme
from mlx_gptoss.workloads.redact.memory import require_memory
from mlx_gptoss.workloads.redact.spans import MODEL, PrivateSpan, characters_of_tokens
from mlx_gptoss.workloads.redact.viterbi import LabelDecoder

CHUNK = 4096  # tokens whose labels one pass gives, without those around them
CALIBRATION = "viterbi_calibration.json"
NEVER_UTF8 = "\ufffd"  # in place of half a surrogate pair, which has no bytes


class Labeler:
    """A loaded classifier with its tokenizer. Any thread may call it.

    chunk: tokens whose labels are computed in one pass.
    biases: of transitions; by default those beside the model, else none.
    """

    def __init__(
        self,
        model: TokenClassifier,
        tokenizer: Tokenizer,
        *,
        thread: EngineThread | None = None,
        chunk: int = CHUNK,
        biases: Biases | None = None,
    ) -> None:
        self.scheme = LabelScheme.parse(model.config.labels)
        self.biases = biases or Biases()
        self._model = model
        self._tokenizer = tokenizer
        self._thread = thread or EngineThread("labeler")
        self._chunk, self._reach = chunk, model.config.reach

    @classmethod
    def open(
        cls,
        folder: Path,
        options: LoadOptions | None = None,
        *,
        progress: Progress | None = None,
    ) -> "Labeler":
        """Load a folder. Raises ConfigError, CheckpointError and MemoryBudgetError."""
        options = options or LoadOptions()
        checkpoint = open_checkpoint(folder, strict=options.strict, classifier=True)
        tokenizer = Tokenizer.open(checkpoint.folder)
        biases = read_biases(checkpoint.folder)
        require_memory(checkpoint, options)
        thread = EngineThread(str(folder))
        try:
            model = thread.call(
                lambda: load_classifier(
                    checkpoint, dtype=options.compute_dtype, progress=progress
                )
            )
            return cls(model, tokenizer, thread=thread, biases=biases)
        except BaseException:
            thread.close()
            raise

    def close(self) -> None:
        """Free the model's memory."""

        def forget() -> None:
            del self._model
            mx.clear_cache()

        self._thread.close(forget)

    def find(
        self, texts: Sequence[str], decoder: LabelDecoder | None = None
    ) -> list[list[PrivateSpan]]:
        """Return the spans of each text, sorted, without white space removed."""
        decoder = decoder or LabelDecoder(self.scheme, self.biases)
        tokens = [self._tokens(text) for text in texts]
        logits = self.logits([ids for ids, _ in tokens])
        return [
            self._spans(text, ids, characters, found, decoder)
            for text, (ids, characters), found in zip(
                texts, tokens, logits, strict=True
            )
        ]

    def logits(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the logits (L, C) of each text of token ids, float32."""
        labels = len(self.scheme.labels)
        found = [np.empty((len(ids), labels), np.float32) for ids in texts]
        for pieces in pack(texts, self._chunk, self._reach):
            ids = [texts[piece.text][piece.first : piece.last] for piece in pieces]
            rows = self._thread.call(self._compute, ids)
            for piece, row in zip(pieces, rows, strict=True):
                inside = slice(piece.start - piece.first, piece.end - piece.first)
                found[piece.text][piece.start : piece.end] = row[inside]
        return found

    def _compute(self, texts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return the logits of texts that are computed in one pass."""
        ids = mx.array([[token for text in texts for token in text]], mx.int32)
        lengths = [len(text) for text in texts]
        logits = self._model(ids, lengths if len(lengths) > 1 else None)
        return np.split(np.array(logits[0]), np.cumsum(lengths[:-1]))

    def _tokens(self, text: str) -> tuple[list[int], np.ndarray]:
        """Return the ids of a text, and the characters that each touches."""
        text = (
            text.encode("utf-8", "replace").decode() if text.isascii() else clean(text)
        )
        ids = self._tokenizer.encode(text)
        sizes = [len(self._tokenizer.token_bytes(token)) for token in ids]
        characters = characters_of_tokens(text, sizes)
        if characters is None:
            raise CheckpointError(
                f"the vocabulary in `{self._tokenizer.source}` changes text, so places "
                "in it cannot be found: use the one published with the model"
            )
        return ids, characters

    def _spans(
        self,
        text: str,
        ids: Sequence[int],
        characters: np.ndarray,
        logits: np.ndarray,
        decoder: LabelDecoder,
    ) -> list[PrivateSpan]:
        if not ids:
            return []
        path = decoder.decode(logits)
        found = []
        for first, last, category in self.scheme.spans(path):
            sure = self._confidence(logits[first:last], category)
            start, end = int(characters[first, 0]), int(characters[last - 1, 1])
            found.append(PrivateSpan(start, end, category, sure, (MODEL,)))
        return found

    def _confidence(self, logits: np.ndarray, category: str) -> float:
        """Return the mean probability of a category, whatever the tags."""
        own = self.scheme.category_numbers == self.scheme.categories.index(category)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares = powers[:, own].sum(axis=1) / powers.sum(axis=1)
        return float(shares.mean())


class TextPiece:
    """A part of a text whose labels one pass gives: tokens `start` to `end`.

    It is computed from the tokens `first` to `last` around it.
    """

    def __init__(
        self, text: int, start: int, end: int, reach: int, length: int
    ) -> None:
        self.text, self.start, self.end = text, start, end
        self.first, self.last = max(0, start - reach), min(length, end + reach)


def pack(
    texts: Sequence[Sequence[int]], chunk: int, reach: int
) -> Iterator[list[TextPiece]]:
    """Cut long texts, and put short ones together, to about `chunk` tokens a pass."""
    waiting: list[TextPiece] = []
    room = chunk
    for number, ids in enumerate(texts):
        for start in range(0, len(ids), chunk):
            end = min(start + chunk, len(ids))
            piece = TextPiece(number, start, end, reach, len(ids))
            size = piece.last - piece.first
            if waiting and size > room:
                yield waiting
                waiting, room = [], chunk
            waiting.append(piece)
            room -= size
    if waiting:
        yield waiting


def clean(text: str) -> str:
    """Replace halves of surrogate pairs; every character keeps its place."""
    return "".join(NEVER_UTF8 if "\ud800" <= one <= "\udfff" else one for one in text)


def classifier_check(name: str) -> Callable[[Path, int], None]:
    """Return a check of a `config.json` before the weights are downloaded.

    It raises ConfigError for a model that gives no labels.
    """

    def check(config_file: Path, _: int) -> None:
        config = ModelConfig.from_dict(read_json(config_file), quiet=True)
        require_kind(config, True, name)

    return check


def read_biases(folder: Path) -> Biases:
    """Read the default operating point of a model's `viterbi_calibration.json`.

    Without the file all biases are 0. Raises ConfigError for a file that is damaged.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return Biases()
    try:
        raw: Any = json.loads(path.read_text("utf-8"))
        given = raw["operating_points"]["default"]["biases"]
        named = cast("Mapping[str, Any]", given)
        return Biases(
            **{
                name: float(named.get(f"transition_bias_{name}", 0.0))
                for name in vars(Biases())
            }
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"`{path}` has no `operating_points.default.biases` of numbers "
            f"({error}): take the file that was published with the model"
        ) from error
