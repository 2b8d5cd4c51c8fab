"""Settings files edited in place: what is not meant stays, comments included.

    document = parse("toml", text)
    document.data["model"] = "gpt-oss-20b"
    text = document.text()

TOML by `tomlkit` and YAML by `ruamel.yaml`, which keep comments, order and quotes.
JSON by the standard library: it has no comments, and a file that has some is refused.
Knows formats, not tools.
"""

import json
import re
from collections.abc import Iterable, MutableMapping
from io import StringIO
from typing import Any, Protocol

import tomlkit
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from tomlkit.exceptions import TOMLKitError

from mlx_gptoss.errors import ConfigError

INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)
LONGEST_LINE = 1 << 20  # never fold what somebody wrote on one line


class Document(Protocol):
    """Settings that were read: change `data`, then ask for the `text`."""

    data: MutableMapping[str, Any]

    def text(self) -> str: ...


def parse(kind: str, text: str) -> Document:
    """Read settings of a kind: toml, yaml or json. Raises ConfigError."""
    document = KINDS[kind](text)
    if not isinstance(document.data, MutableMapping):
        raise ConfigError("it does not hold settings by name")
    return document


class Toml:
    """A TOML file; an empty one has no settings."""

    def __init__(self, text: str) -> None:
        try:
            self.data: MutableMapping[str, Any] = tomlkit.parse(text)
        except TOMLKitError as error:
            raise ConfigError(f"it is not TOML ({error})") from error

    def text(self) -> str:
        return tomlkit.dumps(self.data)


class Yaml:
    """A YAML file of one document, written with the indentation it came with."""

    def __init__(self, text: str) -> None:
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = LONGEST_LINE
        self._yaml.indent(mapping=2, **_sequence_indent(text))
        try:
            read = self._yaml.load(text)
        except (YAMLError, ValueError) as error:
            raise ConfigError(f"it is not YAML ({_first_line(error)})") from error
        self._head = text if read is None else ""  # comments and nothing else
        self.data: MutableMapping[str, Any] = CommentedMap() if read is None else read

    def text(self) -> str:
        written = StringIO()
        if self._head:
            written.write(self._head.rstrip("\n") + "\n")
        self._yaml.dump(self.data, written)
        return written.getvalue()


class Json:
    """A JSON file, written with the indentation it came with."""

    def __init__(self, text: str) -> None:
        found = INDENT.search(text)
        self._indent = found.group(1) if found else "  "
        try:
            self.data: MutableMapping[str, Any] = (
                json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)
                if text.strip()
                else {}
            )
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"it is not plain JSON ({error})") from error

    def text(self) -> str:
        try:
            written = json.dumps(
                self.data, indent=self._indent, ensure_ascii=False, allow_nan=False
            )
        except ValueError as error:
            raise ConfigError(f"it cannot be written back ({error})") from error
        return written + "\n"


KINDS = {"toml": Toml, "yaml": Yaml, "json": Json}


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"`{name}` stands in it twice")
        found[name] = value
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number there")


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:160]


def _sequence_indent(text: str) -> dict[str, int]:
    """How lists are indented: `- x` under its key, or two spaces further in."""
    for above, below in zip(text.split("\n"), text.split("\n")[1:], strict=False):
        if above.rstrip().endswith(":") and below.lstrip().startswith("- "):
            inner = len(below) - len(below.lstrip())
            offset = inner - (len(above) - len(above.lstrip()))
            return {"sequence": offset + 2, "offset": max(offset, 0)}
    return {"sequence": 4, "offset": 2}
