"""One piece of the work: a request, where it stands, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT_URL, RESPONSES_URL = "/v1/chat/completions", "/v1/responses"


@dataclass(frozen=True)
class InputRow:
    """One line, row or file of the input.

    `index` counts them from 0, without blank lines; `where` names the place for
    people (`line 12`, `letters/a.txt`). `problem` says why it cannot be read, in which
    case `fields` is empty.
    """

    index: int
    where: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class Item:
    """A row as a request: `body` for the route `url`; or the `problem` with it."""

    row: InputRow
    url: str = CHAT_URL
    body: Mapping[str, Any] = field(default_factory=dict)
    custom_id: str | None = None
    problem: str | None = None

    @property
    def index(self) -> int:
        return self.row.index
