"""Ids of replies, of their items and of calls: random, or derived from a digest.

    new_id("chatcmpl-", 12)                    # chatcmpl-... of 12 random bytes
    with derived_ids("digest of the work"):
        new_id("chatcmpl-", 12)                # the same one each time

Derived ids make the replies of work that is done again equal to those of the first
time. They hold in the task or thread that entered `derived_ids`, and in what it starts
by `asyncio.create_task` and `asyncio.to_thread`.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count

MakeHex = Callable[[int], str]  # takes a number of bytes
_origin: ContextVar[str | None] = ContextVar("origin of ids", default=None)
_make_hex: ContextVar[MakeHex] = ContextVar("make_hex", default=secrets.token_hex)


def new_id(prefix: str, size: int) -> str:
    """Return an id of `size` bytes, as hexadecimal digits behind a prefix."""
    return prefix + _make_hex.get()(size)


def id_source(name: str) -> Callable[[str, int], str]:
    """Return a `new_id` whose derived ids depend on `name` and on its own calls only.

    So they are the same in whichever order several sources are used.
    """
    origin = _origin.get()
    make_hex = secrets.token_hex if origin is None else _derived(f"{origin} {name}")
    return lambda prefix, size: prefix + make_hex(size)


@contextmanager
def derived_ids(origin: str) -> Iterator[None]:
    """Derive all ids in this context from `origin`, any text."""
    tokens = _origin.set(origin), _make_hex.set(_derived(origin))
    try:
        yield
    finally:
        _origin.reset(tokens[0])
        _make_hex.reset(tokens[1])


def _derived(origin: str) -> MakeHex:
    numbers = count()

    def make_hex(size: int) -> str:
        digest = hashlib.shake_256(f"{origin} {next(numbers)}".encode())
        return digest.hexdigest(size)

    return make_hex
