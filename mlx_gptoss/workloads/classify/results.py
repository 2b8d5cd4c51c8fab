"""Write the verdicts about a row as a line: JSON, or a row of a table.

With one policy its columns are `label`, `flagged`, `rule`, ...; with several they have
the policy's name in front, `spam.label`. A name that the row has too gets `_verdict`
behind it.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.workloads.batch.items import InputRow
from mlx_gptoss.workloads.batch.results import json_line
from mlx_gptoss.workloads.classify.policy import Policy
from mlx_gptoss.workloads.classify.verdict import Verdict

COLUMNS = ("label", "flagged", "rule", "confidence")
DIGITS = 6  # of a probability in a table


@dataclass(frozen=True)
class Judged:
    """A row and its verdicts by policy; or the problem with it."""

    row: InputRow
    verdicts: Mapping[str, Verdict]
    problem: str | None = None


@dataclass(frozen=True)
class VerdictWriter:
    """Writes lines for `policies`; into a table of `columns` if there are any."""

    policies: Sequence[Policy]
    rationale: bool = False
    reasoning: bool = False
    columns: Sequence[str] | None = None
    delimiter: str = ","

    @property
    def heading(self) -> bytes:
        if self.columns is None:
            return b""
        names = [name for policy in self.policies for name in self._names(policy)]
        return self._row([*self.columns, *_apart(names, self.columns)])

    def line(self, judged: Judged) -> tuple[bytes, bool]:
        """Return the line about a row, and whether it is an error."""
        row = judged.row
        if judged.problem is not None:
            fields = {"fields": row.fields} if row.fields else {}
            error = {"row": row.where, "error": judged.problem, **fields}
            return json_line(error), True
        if self.columns is None:
            return json_line(self.as_json(judged)), False
        cells = [row.fields.get(name, "") for name in self.columns]
        for policy in self.policies:
            cells += self._cells(judged.verdicts[policy.name])
        return self._row([_cell(one) for one in cells]), False

    def as_json(self, judged: Judged) -> dict[str, Any]:
        """Return the fields of a row, and its verdicts."""
        found: dict[str, Any] = {}
        for policy in self.policies:
            verdict = judged.verdicts[policy.name]
            for name, value in verdict.as_json(reasoning=self.reasoning).items():
                found[self._prefix(policy) + name] = value
        names = _apart(found, judged.row.fields)
        return {**judged.row.fields, **dict(zip(names, found.values(), strict=True))}

    def _names(self, policy: Policy) -> list[str]:
        more = ["rationale"] * self.rationale + ["reasoning"] * self.reasoning
        return [self._prefix(policy) + name for name in (*COLUMNS, *more)]

    def _cells(self, verdict: Verdict) -> list[Any]:
        sure = verdict.confidence
        more = [verdict.rationale] * self.rationale
        more += [verdict.reasoning] * self.reasoning
        return [
            verdict.label,
            verdict.flagged,
            verdict.rule,
            None if sure is None else round(sure, DIGITS),
            *more,
        ]

    def _prefix(self, policy: Policy) -> str:
        return f"{policy.name}." if len(self.policies) > 1 else ""

    def _row(self, cells: Sequence[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=self.delimiter).writerow(cells)
        return text.getvalue().encode("utf-8", "replace")


def _apart(names: Any, taken: Any) -> list[str]:
    return [f"{name}_verdict" if name in taken else name for name in names]


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
