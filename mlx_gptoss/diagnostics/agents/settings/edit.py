"""Edit settings in place: everything else stays unchanged, byte for byte.

    text = edit_text("toml", text, lambda settings: settings.update(model="demo"))

An edit changes plain data. The differences are applied to the text, which is parsed
again to check that it holds exactly the edited data. Knows formats, not agents.
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

BYTE_ORDER_MARK = "\ufeff"  # written by some Windows editors
FORMATS = {"toml": toml_format, "yaml": yaml_format, "json": json_format}
TITLES = {"toml": "TOML", "yaml": "YAML", "json": "plain JSON"}


def parse(kind: str, text: str) -> dict[str, Any]:
    """Parse settings of a kind: toml, yaml or json. Raises ConfigError."""
    try:
        data = FORMATS[kind].read(text.removeprefix(BYTE_ORDER_MARK))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"it is not {TITLES[kind]} ({error})") from error
    if not isinstance(data, dict):
        raise ConfigError("its top level is not a table of settings")
    return data


def edit_text(kind: str, text: str, edit: Callable[[dict[str, Any]], None]) -> str:
    """Apply an edit to a text; return the same text if it changes nothing.

    Raises ConfigError for a text that cannot be parsed or cannot be edited in place.
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
            raise ValueError("the result would not parse to the edited settings")
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
