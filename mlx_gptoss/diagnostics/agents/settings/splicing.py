"""Text with a piece put in: the rest of it stays, byte for byte."""

import json
import re
from typing import Any

INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)

UNPRINTED = re.compile(r"[\x7f-\x9f\u2028\u2029\ufeff]")


def quote(value: Any) -> str:
    """Write a text or number as JSON does, in characters that TOML and YAML take."""
    written = json.dumps(value, ensure_ascii=False)
    return UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", written)


def splice(text: str, start: int, end: int, piece: str) -> str:
    """Return `text` with `piece` instead of what stands from `start` to `end`."""
    return text[:start] + piece + text[end:]


def line_ending(text: str) -> str:
    """The line end of a text: that of its first line."""
    first = text.find("\n")
    return "\r\n" if first > 0 and text[first - 1] == "\r" else "\n"


def end_last_line(text: str) -> str:
    """Return the text with its last line ended."""
    return text + line_ending(text) if text and not text.endswith("\n") else text


def line_start(text: str, at: int) -> int:
    """Where the line of position `at` begins."""
    return text.rfind("\n", 0, at) + 1


def line_end(text: str, at: int) -> int:
    """Where the line of position `at` ends, before its line end."""
    end = text.find("\n", at)
    end = len(text) if end < 0 else end
    return end - 1 if end > at and text[end - 1] == "\r" else end


def indentation(text: str, at: int) -> str:
    """The white space that the line of position `at` begins with."""
    start = line_start(text, at)
    return text[start : start + len(text[start:at]) - len(text[start:at].lstrip(" \t"))]


def begins_line(text: str, at: int) -> bool:
    """Whether nothing but white space stands before `at` on its line."""
    return not text[line_start(text, at) : at].strip(" \t")


def indent_step(text: str) -> str:
    """One step of indentation: the first that stands in the text, or two spaces."""
    found = INDENT.search(text)
    return found.group(1) if found else "  "
