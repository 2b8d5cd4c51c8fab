"""docs/python.md: its programs run, and print what the page shows.

To update the page: MLX_GPTOSS_UPDATE_GOLDEN=1 pytest tests/project/test_python_page.py
"""

import asyncio
import io
import os
import re
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


class Client:
    """A client of an ASGI app that asks once; `leaves` with the first it hears."""

    def __init__(self, path: str, *, leaves: bool = False) -> None:
        self.left = asyncio.Event()
        self.body = b""
        self._leaves = leaves
        self._sent = False
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"question=What+is+417+%2B+285%3F",
            "root_path": "",
            "headers": [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

    async def ask(self, app: Any) -> bytes:
        await app(self._scope, self._receive, self._send)
        return self.body

    async def _receive(self) -> Message:
        if not self._sent:
            self._sent = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.body += message.get("body", b"")
        if self.body and self._leaves:
            self.left.set()


def test_the_endpoints_of_the_page_answer_and_end_with_their_clients() -> None:
    [program] = SERVER.findall(PAGE.read_text())
    names = run(program)
    app = names["app"]

    async def main() -> None:
        async with names["lifespan"](app):
            runtime: Runtime = app.state.runtime
            assert b"702" in await Client("/ask").ask(app)
            assert b"702" in await Client("/whole").ask(app)
            assert b"702" not in await Client("/ask", leaves=True).ask(app)
            gone = Client("/whole")
            gone.left.set()
            assert await gone.ask(app) == b""
            while runtime.batch_statistics.running:
                await asyncio.sleep(0.001)
            assert runtime.batch_statistics.cancelled == 2

    asyncio.run(main())
