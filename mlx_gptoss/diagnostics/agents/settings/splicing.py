"""Replace parts of a text; find lines, line ends and indentation."""

import json
import re
from typing import Any

INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)

UNPRINTED = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")


def quote(value: Any) -> str:
    """Encode a value as JSON, escaping characters that TOML or YAML do not allow."""
    written = json.dumps(value, ensure_ascii=False)
    return UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def splice(text: str, start: int, end: int, piece: str) -> str:
    """Replace `text[start:end]` by `piece`."""
    return text[:start] + piece + text[end:]


def line_ending(text: str) -> str:
    """Return the line ending of a text: that of its first line."""
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def end_last_line(text: str) -> str:
    """Return the text with a line ending after its last line."""
    return text + line_ending(text) if text and not text.endswith("\n") else text


def line_start(text: str, at: int) -> int:
    """Return the start of the line that contains position `at`."""
    return text.rfind("\n", 0, at) + 1


def line_end(text: str, at: int) -> int:
    """Return the end of the line that contains position `at`, before its ending."""
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if end > at and text[end - 1] == "\r" else end


def indentation(text: str, at: int) -> str:
    """Return the indentation of the line that contains position `at`."""
    start = line_start(text, at)
    return text[start : start + len(text[start:at]) - len(text[start:at].lstrip(" \t"))]


def begins_line(text: str, at: int) -> bool:
    """Whether only white space precedes `at` on its line."""
    return not text[line_start(text, at) : at].strip(" \t")


def indent_step(text: str) -> str:
    """Return one indentation step: the first in the text, or two spaces."""
    found = INDENT.search(text)
    return found.group(1) if found else "  "
