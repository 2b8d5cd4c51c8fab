"""Pages of a list, as OpenAI's routes return them."""

from collections.abc import Sequence
from typing import Any, Protocol

from mlx_gptoss.api.errors import bad_request


class HasId(Protocol):
    @property
    def id(self) -> str: ...


def page_of(found: Sequence[HasId], after: str | None, limit: int) -> dict[str, Any]:
    """Return the fields of a list: at most `limit` entries behind that of id `after`.

    Raises ApiError (400) for an id that is not in the list.
    """
    ids = [one.id for one in found]
    if after is not None and after not in ids:
        raise bad_request("`after` is not in this list", param="after")
    start = ids.index(after) + 1 if after is not None else 0
    page = found[start : start + limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    more = len(found) > start + limit
    return {"data": list(page), "first_id": first, "last_id": last, "has_more": more}
