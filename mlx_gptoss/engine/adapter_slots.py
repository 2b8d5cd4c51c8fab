"""The adapter slots of rows as an argument of the model; slot 0 is no adapter."""

from collections.abc import Sequence
from typing import Any

NO_SLOT = 0


def as_argument(slots: Sequence[int]) -> dict[str, Any]:
    """Return `adapters` for `hidden` and `logits`; nothing if no row has an adapter.

    So a model without adapters computes not one operation more.
    """
    return {"adapters": slots} if any(slots) else {}
