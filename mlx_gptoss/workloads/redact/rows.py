"""Mask the values of a row of JSON, such as those of a batch."""

import json
from collections.abc import Mapping
from typing import Any

from mlx_gptoss.workloads.redact.redactor import Redactor
from mlx_gptoss.workloads.redact.work import redact_document


def mask_row(redactor: Redactor, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with placeholders in its values; a row is one document."""
    pieces: list[str] = []
    text = json.dumps(dict(row), ensure_ascii=False)
    redact_document(text, "json", "row", redactor, write=pieces.append)
    return json.loads("".join(pieces))
