"""Rows to requests: each line of OpenAI's form checked, or a template filled.

    for item in read_items(source, template): ...     # Item, with its problem if any

A request's `custom_id` may be used once: the second request that has it is a problem.
To find it in bounded memory, eight bytes of each id's hash are kept; ids with equal
ones are compared in a second reading.
"""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from mlx_gptoss.errors import BatchError
from mlx_gptoss.workloads.batch.inputs import BatchInput
from mlx_gptoss.workloads.batch.items import InputRow, Item
from mlx_gptoss.workloads.batch.template import MissingFieldError, Template

HASH_BYTES = 8


def require_form(source: BatchInput, template: Template | None) -> None:
    """Raise BatchError unless an input has requests, or a template makes them."""
    if source.has_requests:
        if template is not None:
            raise BatchError(
                f"`{source.path}` has whole requests: a prompt would do nothing"
            )
        return
    if template is None:
        raise BatchError(
            f"`{source.path}` has no requests of OpenAI's Batch form (`custom_id`, "
            "`url`, `body`): give --prompt with {names} of its fields"
        )
    if source.columns is not None:
        template.require_columns(source.columns)


def read_items(
    source: BatchInput,
    template: Template | None,
    *,
    urls: tuple[str, ...],
    doubled: frozenset[str] | None = None,
) -> Iterator[Item]:
    """Yield an item for each row. `urls` are the routes that can be asked.

    `doubled` are the ids that occur several times, None to find them here.
    """
    if doubled is None:
        doubled = find_doubled(source) if source.has_requests else frozenset()
    seen: set[str] = set()
    for row in source.rows():
        if template is not None:
            yield _filled(row, template)
            continue
        item = _request(row, urls)
        if (custom_id := item.custom_id) is not None and custom_id in doubled:
            if custom_id in seen:
                why = f"has the `custom_id` `{custom_id}` of an earlier line"
                item = replace(item, problem=item.problem or why)
            seen.add(custom_id)
        yield item


def find_doubled(source: BatchInput) -> frozenset[str]:
    """Return the ids that several requests have."""
    hashes = np.sort(np.array(array("Q", map(_hash, _ids(source)))))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return frozenset()
    seen: set[str] = set()
    doubled: set[str] = set()
    for one in _ids(source):
        if _hash(one) in suspects:
            (doubled if one in seen else seen).add(one)
    return frozenset(doubled)


def _ids(source: BatchInput) -> Iterator[str]:
    for row in source.rows():
        if isinstance(one := row.fields.get("custom_id"), str):
            yield one


def _hash(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=HASH_BYTES)
    return int.from_bytes(digest.digest(), "big")


def _filled(row: InputRow, template: Template) -> Item:
    if row.problem is not None:
        return Item(row, problem=row.problem)
    try:
        return Item(row, body=template.body(row.fields))
    except MissingFieldError as error:
        return Item(row, problem=str(error))


def _request(row: InputRow, urls: tuple[str, ...]) -> Item:
    """Check a line of OpenAI's Batch form."""
    if row.problem is not None:
        return Item(row, problem=row.problem)
    fields = row.fields
    custom_id = fields.get("custom_id")
    known = custom_id if isinstance(custom_id, str) and custom_id else None
    url, body = fields.get("url"), fields.get("body")
    problem = None
    if known is None:
        problem = "has no `custom_id`, a text that tells it apart"
    elif fields.get("method", "POST") != "POST":
        problem = f"has the `method` {fields['method']!r}: only POST is known"
    elif url not in urls:
        problem = f"has the `url` {url!r}: known are {', '.join(urls)}"
    elif not isinstance(body, dict):
        problem = "has no `body`, an object"
    if problem is not None:
        return Item(row, custom_id=known, problem=problem)
    assert isinstance(url, str) and isinstance(body, dict)
    fitting: dict[str, Any] = body
    return Item(row, url, fitting, known)
