"""Run the model as a child process and talk HTTP to it, with the standard library.

A program in any language can do the same: start the command, wait for the ready file,
read one line of JSON, ask. The child ends with this program, whatever ends it.
"""

import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMAND = [sys.executable, "-m", "mlx_gptoss", "serve", "-m", "demo"]


@contextmanager
def server() -> Iterator[dict[str, Any]]:
    """Start the server; give what its ready file says: url, token, pid, model."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready.json")
        place = ["--port", "0", "--ready-file", str(ready), "--exit-with-parent"]
        log = Path(folder, "log")
        with log.open("wb") as errors:
            child = subprocess.Popen([*COMMAND, *place], stderr=errors)
        try:
            while not ready.exists():  # it appears by a rename, so it is whole
                if child.poll() is not None:
                    raise SystemExit(f"the server did not start: {log.read_text()}")
                time.sleep(0.05)
            yield json.loads(ready.read_text())
        finally:
            child.terminate()
            child.wait()


def stream(ready: dict[str, Any], question: str) -> Iterator[str]:
    """Ask, and yield the answer as it comes."""
    body = {
        "model": ready["model"],
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "stream": True,
    }
    headers = {
        "Authorization": f"Bearer {ready['token']}",
        "Content-Type": "application/json",
    }
    connection = http.client.HTTPConnection(urlsplit(ready["url"]).netloc)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(f"HTTP {answer.status}: {answer.read().decode()}")
    for line in answer:
        data = line.decode().strip().removeprefix("data: ")
        if data.startswith("{"):
            for choice in json.loads(data)["choices"]:
                yield choice["delta"].get("content") or ""
    connection.close()


with server() as ready:
    for text in stream(ready, "What is 417 + 285?"):
        print(text, end="", flush=True)
print()
