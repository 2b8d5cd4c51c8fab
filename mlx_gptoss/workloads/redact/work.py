"""Mask, or restore, a whole document: unit by unit, in bounded batches."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.workloads.redact.documents import Unit, read_units
from mlx_gptoss.workloads.redact.documents.units import Value
from mlx_gptoss.workloads.redact.placeholders import Numbering, placeholder_name
from mlx_gptoss.workloads.redact.redactor import FIELDS_AT_ONCE, Redactor
from mlx_gptoss.workloads.redact.vault import LITERAL, Vault

CHARACTERS_AT_ONCE = 2**18


@dataclass
class RedactionReport:
    """What was found, by label and by what found it; counts only."""

    labels: dict[str, int] = field(default_factory=dict)
    found_by: dict[str, int] = field(default_factory=dict)
    spans: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(self.labels.values())

    def add(self, place: str, facts: list[dict[str, Any]]) -> None:
        """Count the spans of one field."""
        for fact in facts:
            if fact["label"] == LITERAL:
                continue
            label = placeholder_name(fact["label"]).lower()
            self.labels[label] = self.labels.get(label, 0) + 1
            finders = " + ".join(fact["found_by"])
            self.found_by[finders] = self.found_by.get(finders, 0) + 1
            self.spans.append(({"place": place} if place else {}) | fact)


def redact_document(
    text: str,
    kind: str,
    name: str,
    redactor: Redactor,
    numbering: Numbering | None = None,
    *,
    write: Callable[[str], object],
) -> RedactionReport:
    """Mask a document piece by piece; `write` gets the pieces.

    Numbers are those of this document, unless `numbering` is a vault's. Raises
    RedactionError for a document that cannot be read, which names it.
    """
    report, numbering = RedactionReport(), numbering or Numbering()
    for units in batches(read_units(text, kind, name)):
        fields = [one for unit in units for one in unit.fields]
        results = iter(redactor.redact_all(fields, numbering))
        for unit in units:
            own = [next(results) for _ in unit.fields]
            for place, result in zip(unit.places, own, strict=True):
                report.add(place, result.facts())
            values = [
                Value(one.text, given.is_number and not one.spans)
                for given, one in zip(unit.fields, own, strict=True)
            ]
            write(unit.render(values))
    return report


def restore_document(
    text: str, kind: str, name: str, vault: Vault, *, write: Callable[[str], object]
) -> None:
    """Put back what the placeholders of a document stand for."""
    for unit in read_units(text, kind, name):
        values = []
        for one in unit.fields:
            number = vault.number_of(one.text)
            if number is not None and kind in ("json", "jsonl"):
                values.append(Value(number, is_number=True))
            else:
                values.append(Value(vault.restore(one.text), one.is_number))
        write(unit.render(values))


def batches(units: Iterator[Unit]) -> Iterator[list[Unit]]:
    """Group units for the model, which reads short fields together."""
    waiting: list[Unit] = []
    fields = characters = 0
    for unit in units:
        waiting.append(unit)
        fields += len(unit.fields)
        characters += sum(len(one.text) for one in unit.fields)
        if fields >= FIELDS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield waiting
            waiting, fields, characters = [], 0, 0
    if waiting:
        yield waiting
