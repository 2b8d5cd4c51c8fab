"""Read server-sent events as clients read them: a comment is no event.

Under load a server sends comments at any place, so no test cuts streams by hand.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mlx_gptoss.diagnostics.http_client import ServerSentEvent, parse_events

DONE = "[DONE]"


def read(lines: Iterable[str]) -> Iterator[ServerSentEvent]:
    """Yield events while the lines of a stream arrive."""
    return parse_events(line.rstrip("\n").encode() + b"\n" for line in lines)


def events(text: str) -> list[ServerSentEvent]:
    """Return the events of a whole stream."""
    return list(read(text.split("\n")))


def objects(text: str) -> list[Any]:
    """Return the data of a stream's events, without the mark of its end."""
    return [one.data for one in events(text) if one.data != DONE]


def ended(text: str) -> list[Any]:
    """Return the data of a stream that ends with OpenAI's mark, without the mark."""
    *data, last = (one.data for one in events(text))
    assert last == DONE
    return data


def named(text: str, *, done: bool = False) -> list[Any]:
    """Return the data of events that are named by their type, to the mark if any."""
    found = events(text)
    if done:
        assert found.pop().data == DONE
    for one in found:
        assert one.name == one.data["type"]
    return [one.data for one in found]
