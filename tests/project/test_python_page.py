"""docs/python.md: its programs run, and print what the page shows.

To update the page: MLX_GPTOSS_UPDATE_GOLDEN=1 pytest tests/project/test_python_page.py
"""

import asyncio
import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from mlx_gptoss import Runtime

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
PAIR = re.compile(r"```python\n((?:(?!```).)*)```\n+```text\n(.*?)```", re.DOTALL)
SERVER = re.compile(r"```python\n((?:(?!```).)*FastAPI.*?)```", re.DOTALL)
UPDATE = "MLX_GPTOSS_UPDATE_GOLDEN"
PAIRS = PAIR.findall(PAGE.read_text())


def run(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("place", range(len(PAIRS)))
def test_a_program_of_the_page_prints_what_the_page_shows(place: int) -> None:
    program, shown = PAIRS[place]
    with redirect_stdout(io.StringIO()) as out:
        run(program)

    printed = out.getvalue()
    if os.environ.get(UPDATE):
        before = f"```python\n{program}```\n\n```text\n"
        text = PAGE.read_text()
        assert f"{before}{shown}```" in text
        PAGE.write_text(text.replace(f"{before}{shown}```", f"{before}{printed}```"))
        return
    assert printed == shown


async def ask(app: Any, *, leave_after: int | None) -> bytes:
    """Send a request to an app; its client leaves after some pieces of the body."""
    pieces: list[bytes] = []
    left = asyncio.Event()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/ask",
        "raw_path": b"/ask",
        "query_string": b"question=What+is+417+%2B+285%3F",
        "root_path": "",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    begun = False

    async def receive() -> Message:
        nonlocal begun
        if not begun:
            begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body" and message.get("body"):
            pieces.append(message["body"])
            if len(pieces) == leave_after:
                left.set()

    await app(scope, receive, send)
    return b"".join(pieces)


def test_the_endpoint_of_the_page_streams_and_ends_with_its_client() -> None:
    [program] = SERVER.findall(PAGE.read_text())
    names = run(program)
    app = names["app"]

    async def main() -> Iterator[bytes]:
        async with names["lifespan"](app):
            runtime: Runtime = app.state.runtime
            whole = await ask(app, leave_after=None)
            left = await ask(app, leave_after=1)
            while runtime.batch_statistics.running:
                await asyncio.sleep(0.001)
            assert runtime.batch_statistics.cancelled == 1
        return iter((whole, left))

    whole, left = asyncio.run(main())
    assert b"702" in whole and left and b"702" not in left
