"""Write an outcome as a line: in OpenAI's Batch form, as JSON, or as a row of a table.

    writer = ColumnLines(template)         # or RequestLines, or ColumnTable
    writer.heading                         # the beginning of the output
    line, is_error = writer.line(outcome)

A line is bytes and ends with a line break. Errors are JSON in all forms.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlx_gptoss.workloads.batch.items import Item
from mlx_gptoss.workloads.batch.template import Template

OK = 200
FINISH_REASON = "finish_reason"
CUT = "length"


@dataclass(frozen=True)
class Outcome:
    """What became of an item: an HTTP status, and the body of the reply or error."""

    item: Item
    status: int
    body: Mapping[str, Any]

    @property
    def is_error(self) -> bool:
        return self.status != OK


class ResultWriter(Protocol):
    """Writes outcomes; `heading` is what the output begins with."""

    @property
    def heading(self) -> bytes: ...

    def line(self, outcome: Outcome) -> tuple[bytes, bool]:
        """Return the line of an outcome, and whether it is an error."""
        ...


class RequestLines:
    """Lines of OpenAI's Batch form. `origin` makes the ids of different work differ."""

    heading = b""

    def __init__(self, origin: str) -> None:
        self._origin = origin

    def line(self, outcome: Outcome) -> tuple[bytes, bool]:
        item = outcome.item
        name = f"{self._origin} {item.index}".encode()
        number = hashlib.sha256(name).hexdigest()[:24]
        response = {
            "status_code": outcome.status,
            "request_id": f"req_{number}",
            "body": outcome.body,
        }
        error = None
        if item.problem is not None:
            response, error = None, outcome.body["error"]
        found = {
            "id": f"batch_req_{number}",
            "custom_id": item.custom_id,
            "response": response,
            "error": error,
        }
        if item.custom_id is None:
            found["line"] = item.row.where
        return json_line(found), outcome.is_error


class ColumnLines:
    """Lines of JSON: the fields of the row, and the columns of the answer."""

    heading = b""

    def __init__(self, template: Template) -> None:
        self._template = template

    def line(self, outcome: Outcome) -> tuple[bytes, bool]:
        columns, problem = read_columns(outcome, self._template)
        if columns is None:
            return error_line(outcome, problem), True
        fields = outcome.item.row.fields
        names = answer_names(columns, fields)
        answers = dict(zip(names, columns.values(), strict=True))
        return json_line({**fields, **answers}), False


class ColumnTable:
    """Rows of a table: the columns of the input, and those of the answer."""

    def __init__(
        self, template: Template, columns: Sequence[str], delimiter: str
    ) -> None:
        self._template = template
        self._columns = list(columns)
        self._delimiter = delimiter
        self._answers = [*template.columns, FINISH_REASON]

    @property
    def heading(self) -> bytes:
        return self._row([*self._columns, *answer_names(self._answers, self._columns)])

    def line(self, outcome: Outcome) -> tuple[bytes, bool]:
        columns, problem = read_columns(outcome, self._template)
        if columns is None:
            return error_line(outcome, problem), True
        fields = outcome.item.row.fields
        cells = [fields.get(name, "") for name in self._columns]
        cells += [columns.get(name, "") for name in self._answers]
        return self._row([_cell(one) for one in cells]), False

    def _row(self, cells: Sequence[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter).writerow(cells)
        return text.getvalue().encode()


def read_columns(
    outcome: Outcome, template: Template
) -> tuple[dict[str, Any] | None, str]:
    """Return the columns of an answer, or None and why there are none."""
    if outcome.is_error:
        return None, outcome.body["error"]["message"]
    choice = outcome.body["choices"][0]
    text, reason = choice["message"]["content"] or "", choice[FINISH_REASON]
    columns: dict[str, Any]
    if template.schema is None:
        columns = {"answer": text}
    else:
        try:
            found = json.loads(text)
        except ValueError:
            why = "was cut off: allow more tokens" if reason == CUT else "is no JSON"
            return None, f"the answer {why}"
        columns = found if template.columns != ["answer"] else {"answer": found}
    return {**columns, FINISH_REASON: reason}, ""


def answer_names(answers: Sequence[str] | Mapping[str, Any], taken: Any) -> list[str]:
    """Return the names of the columns of an answer, apart from those of the row."""
    return [f"{name}_answer" if name in taken else name for name in answers]


def error_line(outcome: Outcome, problem: str) -> bytes:
    """Return the line of a row that was not answered."""
    row = outcome.item.row
    fields = {"fields": row.fields} if row.fields else {}
    return json_line({"row": row.where, "error": problem, **fields})


def json_line(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
