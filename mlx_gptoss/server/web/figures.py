"""The figures of answers: kept as a note of the saved chat, found by what was answered.

    data = with_figures(data, turns, {"stats": {...}, "seconds": [2.1, None]})
    add_figures(turns, data)

An answer that is changed elsewhere, or is another, has no figures. Knows turns as
`view` shows them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_gptoss.chat import saved

FIGURES = "figures"  # the note
KEY_CHARACTERS = 16
STATS = ("tokens", "prompt", "cached", "speed", "seconds")
Turns = Sequence[dict[str, Any]]


def with_figures(
    data: dict[str, Any], turns: Turns, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a saved chat with the figures of the last of its turns."""
    if not turns:
        return data
    notes = data.get("notes", {})
    keys = [_key(turn) for turn in turns]
    known = {key: one for key, one in _known(notes).items() if key in keys}
    kept = {FIGURES: {**known, keys[-1]: dict(figures)}}
    later = {"version": saved.VERSION, "adapter": data.get("adapter")}
    return data | later | {"notes": {**notes, **kept}}


def add_figures(turns: Turns, data: Mapping[str, Any]) -> None:
    """Add `stats` to turns, and `seconds` to their reasoning, where they are known."""
    known = _known(data.get("notes", {}))
    for turn in turns:
        turn["stats"] = None
        figures = known.get(_key(turn)) if known else None
        if not isinstance(figures, dict):
            continue
        turn["stats"] = _numbers(figures.get("stats"))
        seconds = figures.get("seconds")
        times = seconds if isinstance(seconds, list) else []
        for item, time in zip(turn["items"], times, strict=False):
            if item["kind"] == "reasoning" and _is_number(time):
                item["seconds"] = time


def _known(notes: Mapping[str, Any]) -> dict[str, Any]:
    known = notes.get(FIGURES)
    return known if isinstance(known, dict) else {}


def _key(turn: Mapping[str, Any]) -> str:
    """Return what tells a question and its answer from others."""
    said = [
        [item.get(key) for key in ("kind", "text", "name", "arguments", "result")]
        for item in turn["items"]
    ]
    text = json.dumps([turn["source"], said])
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_CHARACTERS]


def _numbers(stats: Any) -> dict[str, Any] | None:
    if not isinstance(stats, dict):
        return None
    whole = all(_is_number(stats.get(name)) for name in STATS)
    return {name: stats[name] for name in STATS} if whole else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
