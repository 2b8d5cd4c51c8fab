r"""Terminals for the syntax of JSON: white space, strings, constants.

White space between two tokens is at most one blank and one line break with its indent:
enough for `", "` and for pretty printing, and bounded. A character of a string is
written raw or escaped. The syntax of Lark is the library's dialect.
"""

import json
from collections.abc import Iterable
from typing import Any

MAX_INDENT = 64  # blanks or tabs behind a line break
WHITESPACE = rf"[ \t]?\r?\n[ \t]{{0,{MAX_INDENT}}}|[ \t]"
MAYBE = rf"([ \t]?(\r?\n[ \t]{{0,{MAX_INDENT}}})?)"
PAIR = r"[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
SCALAR = r"[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
# ASCII in names is never escaped as \u, or a name could occur twice.
NOT_ASCII = (
    r"00[01][0-9a-fA-F]|007[fF]|00[89a-fA-F][0-9a-fA-F]|0[1-9a-fA-F][0-9a-fA-F]{2}"
    r"|[1-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}"
)
CHARACTER = rf'([^"\\\x00-\x1F]|\\["\\\/bfnrt]|\\u({SCALAR}|{PAIR}))'
LETTER = rf'([^"\\\x00-\x1F]|\\["\\bfnrt]|\\u({NOT_ASCII}|{PAIR}))'
HEAD = rf"""%llguidance {{}}
COMMA: /{MAYBE},{MAYBE}/
COLON: /{MAYBE}:{MAYBE}/
OPEN: /\{{{MAYBE}/
CLOSE: /{MAYBE}\}}/
EMPTY: /\{{{MAYBE}\}}/
BEGIN: /\[{MAYBE}/
END: /{MAYBE}\]/
NONE: /\[{MAYBE}\]/
STRING: /"{CHARACTER}*"/
NAME: /"{LETTER}*"/
"""
META = set(r"\.+*?()|[]{}^$#&-~/")
SHORT = {'"': '"', "\\": r"\\", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


def string_terminal(texts: Iterable[str]) -> str:
    """Return a terminal for these strings, in every spelling of JSON."""
    return f'/"({"|".join(map(string_pattern, texts))})"/'


def string_pattern(text: str) -> str:
    """Return a regular expression for the characters of a string in JSON."""
    return "".join(map(_character, text))


def length_terminal(least: int, most: int | None) -> str:
    """Return a terminal for strings of `least` to `most` characters."""
    return f'/"{CHARACTER}{{{least},{"" if most is None else most}}}"/'


def literal_terminal(value: Any) -> str:
    """Return a terminal for true, false or null."""
    return json.dumps(json.dumps(value))


def _character(char: str) -> str:
    code = ord(char)
    escaped = rf"\\u{_any_case(f'{code:04x}')}"
    if char in SHORT:
        return rf"(\\{SHORT[char]}|{escaped})" if code < 0x20 else rf"\\{SHORT[char]}"
    if code < 0x20 or 0xD800 <= code < 0xE000:
        return escaped
    if char == "/":
        return r"(\/|\\\/)"
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        pair = (f"{0xD800 + high:04x}", f"{0xDC00 + low:04x}")
        escaped = "".join(rf"\\u{_any_case(one)}" for one in pair)
    if code < 0x7F:
        return f"\\{char}" if char in META else char
    return f"({char}|{escaped})"


def _any_case(digits: str) -> str:
    return "".join(f"[{d}{d.upper()}]" if d.isalpha() else d for d in digits)
