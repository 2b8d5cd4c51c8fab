"""Find and mask what is private: the model's spans and those of patterns, united.

with Redactor("openai/privacy-filter") as redactor:
    redaction = redactor.redact("Call Alice Smith at +1 415 555 2671.")
    redaction.text      # "Call [PERSON_1] at [PHONE_1]."
    redaction.spans     # where, what, how sure, what found it
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.workloads.redact.labeler import Labeler
from mlx_gptoss.workloads.redact.patterns import CERTAIN, PATTERNS, find_patterns
from mlx_gptoss.workloads.redact.placeholders import (
    LOOKALIKE,
    Numbering,
    placeholder_name,
)
from mlx_gptoss.workloads.redact.spans import (
    PrivateSpan,
    byte_ranges,
    unite,
    whole_spans,
)
from mlx_gptoss.workloads.redact.vault import LITERAL, Vault
from mlx_gptoss.workloads.redact.viterbi import LabelDecoder

DEFAULT_MODEL = "openai/privacy-filter"
Favour = Literal["recall", "precision", "balance"]
# Logits by which transitions lean: e^2 is seven times as likely.
LEANINGS: dict[str, float] = {"recall": 2.0, "balance": 0.0, "precision": -2.0}
FIELDS_AT_ONCE = 256  # of which the model sees the short ones together


class Field(NamedTuple):
    """A text to mask. `context` precedes it for the model and is not masked."""

    text: str
    context: str = ""
    is_number: bool = False  # of JSON: it becomes a string where it is masked


@dataclass(frozen=True)
class MaskedSpan:
    """A span of the original text, and the placeholder that replaced it."""

    span: PrivateSpan
    placeholder: str


@dataclass(frozen=True)
class Redaction:
    """A masked text, and the spans of the original."""

    text: str
    spans: tuple[MaskedSpan, ...]
    original: str

    def facts(self) -> list[dict[str, Any]]:
        """Return the spans as JSON values, without the text that was masked.

        `start` and `end` count code points, `byte_start` and `byte_end` UTF-8 bytes.
        """
        places = byte_ranges(self.original, [one.span for one in self.spans])
        return [
            {
                "start": one.span.start,
                "end": one.span.end,
                "byte_start": first,
                "byte_end": last,
                "label": one.span.category,
                "confidence": round(one.span.confidence, 4),
                "found_by": list(one.span.found_by),
                "placeholder": one.placeholder,
            }
            for one, (first, last) in zip(self.spans, places, strict=True)
        ]


class Redactor:
    """Finds and masks private text. Any thread may call it.

    model: a folder or Hub id of a token classifier; None uses patterns alone.
    min_confidence: leave spans of the model that are less sure, from 0 to 1.
    favour: `recall` masks more, `precision` less, by Viterbi's transitions.
    keep: labels to leave, such as `private_date` or `DATE`.
    options: how to load the model (memory, dtype, offline).
    progress(done, total): called while loading, in bytes.
    labeler: a loaded model instead, which stays open.

    Raises HubError, ConfigError, CheckpointError or MemoryBudgetError for a model that
    cannot be found or loaded. `close`, or leaving a `with` block, frees its memory.
    """

    def __init__(
        self,
        model: str | Path | None = DEFAULT_MODEL,
        *,
        min_confidence: float = 0.0,
        favour: Favour = "balance",
        keep: Collection[str] = (),
        options: LoadOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
        labeler: Labeler | None = None,
    ) -> None:
        if favour not in LEANINGS:
            raise ConfigError(f"favour `{favour}`: use one of {', '.join(LEANINGS)}")
        if not 0 <= min_confidence <= 1:
            raise ConfigError(f"a confidence of {min_confidence}: use 0 to 1")
        options = options or LoadOptions()
        self._owns_labeler = labeler is None
        if labeler is None and model is not None:
            folder = resolve(str(model), offline=options.offline)
            labeler = Labeler.open(Path(folder), options, progress=progress)
        self._labeler = labeler
        self.min_confidence, self.favour = min_confidence, favour
        try:
            self._keep = self._kept(keep)
        except ConfigError:
            self.close()
            raise
        self._decoder = None
        if labeler is not None:
            biases = labeler.biases.leaning(LEANINGS[favour])
            self._decoder = LabelDecoder(labeler.scheme, biases)

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be found: the model's labels, and those of patterns."""
        own = self._labeler.scheme.categories if self._labeler else ()
        of_patterns = (pattern.category for pattern in PATTERNS)
        return tuple(dict.fromkeys([*own, *of_patterns]))

    def with_settings(
        self,
        *,
        min_confidence: float = 0.0,
        favour: Favour = "balance",
        keep: Collection[str] = (),
    ) -> "Redactor":
        """Return a redactor with other settings of the same loaded model."""
        return Redactor(
            None,
            labeler=self._labeler,
            min_confidence=min_confidence,
            favour=favour,
            keep=keep,
        )

    def __enter__(self) -> "Redactor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory, unless the model was given."""
        if self._labeler is not None and self._owns_labeler:
            self._labeler.close()

    def find(self, text: str) -> list[PrivateSpan]:
        """Return what is private in a text, sorted, without overlaps."""
        return self.find_all([Field(text)])[0]

    def redact(self, text: str, numbering: Numbering | None = None) -> Redaction:
        """Mask a text. `numbering` goes on with that of other texts, or is a Vault."""
        return self.redact_all([Field(text)], numbering)[0]

    def redact_all(
        self, fields: Sequence[Field], numbering: Numbering | None = None
    ) -> list[Redaction]:
        """Mask the texts of one document: `fields` share their numbers.

        `numbering` goes on with that of other texts, or is a Vault.
        """
        numbering = numbering or Numbering()
        found = self.find_all(fields)
        for field in fields:
            numbering.avoid(field.text)
        return [
            mask(field, spans, numbering)
            for field, spans in zip(fields, found, strict=True)
        ]

    def find_all(self, fields: Sequence[Field]) -> list[list[PrivateSpan]]:
        """Return the spans of each of the `fields`' own text."""
        found: list[list[PrivateSpan]] = [[] for _ in fields]
        if self._labeler is not None:
            texts = [field.context + field.text for field in fields]
            of_model = self._labeler.find(texts, self._decoder)
            for field, own, spans in zip(fields, found, of_model, strict=True):
                own += self._within(field, spans)
        for field, own in zip(fields, found, strict=True):
            own += find_patterns(field.text)
            own[:] = [span for span in own if span.category not in self._keep]
            own[:] = unite(whole_spans(field.text, own))
        return found

    def _within(self, field: Field, spans: Sequence[PrivateSpan]) -> list[PrivateSpan]:
        """Return the parts of the model's spans that are in the field's own text."""
        before = len(field.context)
        moved = [span.shifted(-before) for span in spans]
        return [
            replace(span, start=max(0, span.start))
            for span in moved
            if span.end > 0 and span.confidence >= self.min_confidence
        ]

    def _kept(self, names: Collection[str]) -> set[str]:
        """Return the labels to leave, given by label or placeholder."""
        by_name = {placeholder_name(label): label for label in self.labels}
        found = set()
        for name in names:
            label = name if name in self.labels else by_name.get(name.upper())
            if label is None:
                known = ", ".join(map(str.lower, by_name))
                raise ConfigError(f"nothing is labelled `{name}`: keep one of {known}")
            found.add(label)
        return found


def mask(field: Field, spans: Sequence[PrivateSpan], numbering: Numbering) -> Redaction:
    """Replace spans, sorted and without overlaps, by placeholders."""
    text = field.text
    if isinstance(numbering, Vault):
        spans = unite([*spans, *_lookalikes(text)])
    if field.is_number and spans:  # no half of a number is one
        spans = unite([*spans, replace(spans[0], start=0, end=len(text))])
    pieces, masked, place = [], [], 0
    for span in spans:
        name = numbering.placeholder(
            span.category, text[span.start : span.end], is_number=field.is_number
        )
        pieces += [text[place : span.start], name]
        masked.append(MaskedSpan(span, name))
        place = span.end
    return Redaction("".join([*pieces, text[place:]]), tuple(masked), text)


def _lookalikes(text: str) -> list[PrivateSpan]:
    """Return what looks like a placeholder in a text, to be restored as it is."""
    return [
        PrivateSpan(*match.span(), LITERAL, CERTAIN, (LITERAL,))
        for match in LOOKALIKE.finditer(text)
    ]
