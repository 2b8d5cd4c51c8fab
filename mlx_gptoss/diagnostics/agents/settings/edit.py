"""Settings files edited in place: what is not meant stays, byte for byte.

    text = edited("toml", text, lambda settings: settings.update(model="gpt-oss-20b"))

An edit changes plain data. What it changed is put into the text, which is then read
again: it must hold the edited data, no more and no less. Knows formats, not tools.
"""

from collections.abc import Callable
from copy import deepcopy
from types import ModuleType
from typing import Any

from mlx_gptoss.diagnostics.agents.settings import json_format, toml_format, yaml_format
from mlx_gptoss.diagnostics.agents.settings.changes import (
    DeleteValue,
    MoveToFront,
    PrependItem,
    SettingsChange,
    differences,
    equal,
)
from mlx_gptoss.errors import ConfigError

BYTE_ORDER_MARK = "\ufeff"  # of byte order; editors of Windows put it before a text
FORMATS = {"toml": toml_format, "yaml": yaml_format, "json": json_format}
TITLES = {"toml": "TOML", "yaml": "YAML", "json": "plain JSON"}


def parse(kind: str, text: str) -> dict[str, Any]:
    """Read settings of a kind: toml, yaml or json. Raises ConfigError."""
    try:
        data = FORMATS[kind].read(text.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not {TITLES[kind]} ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError("it does not hold settings by name")
    return data


def edit_text(kind: str, text: str, edit: Callable[[dict[str, Any]], None]) -> str:
    """Return the text after an edit; the same text where that changes nothing.

    Raises ConfigError for a text that cannot be read, or not be changed in place.
    """
    before = parse(kind, text)
    mark = BYTE_ORDER_MARK if text.startswith(BYTE_ORDER_MARK) else ""
    new = text.removeprefix(BYTE_ORDER_MARK)
    try:
        after = deepcopy(before)
        edit(after)
        for change in differences(before, after):
            new = _apply(FORMATS[kind], new, change)
        if not _parses_to(kind, new, after):
            raise ValueError("what is written would not read the same")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it cannot be changed in place ({error})") from error
    return mark + new


def _parses_to(kind: str, text: str, data: dict[str, Any]) -> bool:
    try:
        return equal(FORMATS[kind].read(text), data)
    except ValueError:
        return False


def _apply(kind: ModuleType, text: str, change: SettingsChange) -> str:
    if isinstance(change, DeleteValue):
        return kind.drop(text, change.path)
    if isinstance(change, PrependItem):
        return kind.first(text, change.path, change.value)
    if isinstance(change, MoveToFront):
        return kind.move(text, change.path, change.number)
    return kind.put(text, change.path, change.value)
