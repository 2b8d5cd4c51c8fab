"""Parse the arguments of a tool call as a JSON object: leniently, without guessing."""

import json
import re
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.harmony.json_text import json_text

FENCED = re.compile(r"\s*```\w*\s*(?P<body>\{.*)", re.DOTALL)
TRAILING_JUNK = "]}`,; \t\r\n"  # that models add behind a complete object


@dataclass(frozen=True)
class ParsedArguments:
    """`text` is a JSON object unless `problem` is set; `repair` says what changed."""

    text: str
    repair: str | None = None
    problem: str | None = None


def parse_arguments(text: str) -> ParsedArguments:
    """Parse `text` as a JSON object; unwrap a list of one and drop stray brackets."""
    if not text.strip():
        return ParsedArguments("{}", repair="empty arguments were read as {}")
    try:
        return _read(text)
    except RecursionError:
        return ParsedArguments(text, problem=_problem("it is nested too deeply"))
    except ValueError as error:
        return ParsedArguments(text, problem=_problem(str(error)))


def _read(text: str) -> ParsedArguments:
    fenced = FENCED.fullmatch(text)
    body = fenced["body"] if fenced else text.lstrip()
    value, end = LENIENT.raw_decode(body)
    rest = body[end:]
    if rest.strip(TRAILING_JUNK):
        return ParsedArguments(
            text, problem=_problem("there is text behind the JSON value")
        )
    inner = _unwrapped(value)
    if not isinstance(inner, dict):
        return ParsedArguments(text, problem=_problem(f"this is a {_kind(inner)}"))
    if inner is not value:
        kind = "list of one object" if isinstance(value, list) else "string of JSON"
        return ParsedArguments(_write(inner), repair=f"a {kind} was unwrapped")
    if fenced:
        return ParsedArguments(_write(inner), repair="a code fence was taken off")
    if rest.strip():
        return ParsedArguments(_write(value), repair=f"`{rest.strip()}` was dropped")
    try:
        json.loads(text)
    except ValueError:  # raw line breaks inside a string
        return ParsedArguments(_write(value), repair="control characters were escaped")
    return ParsedArguments(text)


def _unwrapped(value: Any) -> Any:
    """Return the object in a list of one, or in a string (arguments encoded twice)."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return LENIENT.decode(value)
        except ValueError:
            return value
    return value


def _write(value: dict[str, Any]) -> str:
    return (
        json_text(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


LENIENT = json.JSONDecoder(strict=False, parse_constant=_refuse_constant)


def _problem(reason: str) -> str:
    return f"the arguments are not a JSON object: {reason}"


def _kind(value: Any) -> str:
    names = {list: "list", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
