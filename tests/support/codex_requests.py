"""What Codex sends, recorded and made neutral: `tests/golden/codex/*.json`.

    recorder = Recorder(app)            # an app around the server's
    recorder.bodies                     # the requests it heard
    write("direct", recorder.bodies)    # to be replayed without Codex

A file has what all requests of a session share, and the items that each one adds. Texts
that are not this project's are left out: each became a word that says what stood there.
"""

import itertools
import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "golden" / "codex"
RESPONSES = "/v1/responses"
TEXTS = {  # of Codex, by the key they stand at
    "description": "(what it is)",
    "definition": r"start: /(.|\n)+/",
    "prompt_cache_key": "(key)",
    "client_metadata": {"turn": "(data)"},
}
OURS = re.compile("add|fail|exec_command|view_image|spawn_agent|wait_agent|sleep")
NUMBERS = "mcp__numbers"
MEANT = "What is 2 + 3?"  # how the text of the user begins; others are of Codex
ID = re.compile(r"([a-z]+)_[0-9a-f][0-9a-f-]{7,}")
CHUNK = re.compile(r"Chunk ID: \w+|(?<=Wall time: )[0-9.]+")
Json = dict[str, Any]


class Recorder:
    """Passes everything on and keeps the bodies of requests for a response."""

    def __init__(self, app: Any) -> None:
        self.bodies: list[Json] = []
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        pieces: list[bytes] = []

        async def heard() -> Any:
            event = await receive()
            if event["type"] == "http.request":
                pieces.append(event["body"])
                if not event.get("more_body") and scope["path"] == RESPONSES:
                    self.bodies.append(json.loads(b"".join(pieces)))
            return event

        await self._app(scope, heard, send)


def requests(name: str) -> list[Json]:
    """Return the requests of a recorded session, each with all that came before."""
    read = json.loads((FOLDER / f"{name}.json").read_text())
    inputs = itertools.accumulate(read["inputs"])
    return [{**read["shared"], "input": items} for items in inputs]


def write(name: str, bodies: list[Json]) -> None:
    """Record a session, for review."""
    ids: dict[str, str] = {}
    inputs, known = [], 0
    for body in bodies:
        inputs.append([_neutral(item, ids) for item in body["input"][known:]])
        known = len(body["input"])
    shared = {key: one for key, one in bodies[0].items() if key != "input"}
    whole = {"shared": _neutral(shared, ids), "inputs": inputs}
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps(whole, indent=1, ensure_ascii=False)
    (FOLDER / f"{name}.json").write_text(text + "\n")


def _neutral(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_neutral(one, ids) for one in value if _is_kept(one)]
    if isinstance(value, dict):
        if value.get("name") == NUMBERS and value["type"] == "namespace":
            return value | {"description": TEXTS["description"]}  # the rest is ours
        return {key: _at(key, one, value, ids) for key, one in value.items()}
    if not isinstance(value, str):
        return value
    value = CHUNK.sub("", value)
    return ID.sub(lambda id: ids.setdefault(id[0], f"{id[1]}_{len(ids)}"), value)


def _at(key: str, value: Any, around: Json, ids: dict[str, str]) -> Any:
    if key in TEXTS and value and not (key == "description" and "type" in value):
        return TEXTS[key]
    if key == "content" and around["type"] == "message":
        return [part | {"text": _said(part["text"])} for part in value]
    return _neutral(value, ids)


def _said(text: str) -> str:
    return text if MEANT in text else "(a text of Codex)"


def _is_kept(one: Any) -> bool:
    """A few tools are enough."""
    named = isinstance(one, dict) and one.get("type") == "function" and one.get("name")
    return not named or bool(OURS.match(named))
