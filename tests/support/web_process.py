"""The chat page in a process of its own, with a scripted model: to be killed.

    with web_process(folder, replies=[...]) as started:     # `python -m` this module
        started.link, started.port, started.kill()

Its chats are in `folder`. The model waits behind `gate`, for good.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.server.web.keys import PageKeys, read_secret
from mlx_gptoss.server.web.memory_store import MemoryStore
from tests.support.scripted_chat import scripted_runtime
from tests.support.web_browser import page_server

PATIENCE = 60.0
CHATS = "chats.sqlite3"


@dataclass
class WebProcess:
    """A server of the page that runs."""

    link: str
    port: int
    process: "subprocess.Popen[Any]"

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)


@contextmanager
def web_process(
    folder: Path,
    replies: Sequence[str],
    *,
    gate: str | None = None,
    port: int = 0,
    private: bool = False,
) -> Iterator[WebProcess]:
    """Start a server, and kill it afterwards."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    given = {"folder": str(folder), "replies": [*replies], "gate": gate}
    given |= {"port": port, "private": private}
    command = [sys.executable, "-m", __name__, json.dumps(given)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        until = time.monotonic() + PATIENCE
        while not ready.exists():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        yield WebProcess(**json.loads(ready.read_text()), process=process)
    finally:
        process.kill()
        process.wait(PATIENCE)


def main() -> None:
    given = json.loads(sys.argv[1])
    folder = Path(given["folder"])
    gates = {given["gate"]: folder / "never"} if given["gate"] else None
    store = MemoryStore() if given["private"] else Sessions.open(folder / CHATS)
    with (
        scripted_runtime(*given["replies"], gates=gates) as runtime,
        page_server(
            runtime,
            store=store,
            keys=PageKeys(read_secret(folder)),
            port=given["port"],
            private=given["private"],
        ) as served,
    ):
        port = int(served.url.rpartition(":")[2])
        draft = folder / "ready.new"
        draft.write_text(json.dumps({"link": served.link(), "port": port}))
        draft.rename(folder / "ready")
        while True:
            time.sleep(1)


if __name__ == "__main__":
    main()
