"""Parse a docstring into a description and a text for each parameter.

Reads Google's `Args:`, NumPy's `Parameters` and Sphinx's `:param name:`; the text
before the first section is the description. Knows nothing of tools.
"""

import inspect
import re
from dataclasses import dataclass, field

GOOGLE_SECTION = re.compile(
    r"(args|arguments|parameters|params|returns?|yields?|raises|examples?|notes?)"
    r":\s*$",
    re.I,
)
UNDERLINE = re.compile(r"-{3,}\s*$")
SPHINX_FIELD = re.compile(r":(\w+)(?:\s+[^:]*?)??(?:\s+(\*{0,2}\w+))?:\s*(.*)$")
GOOGLE_ENTRY = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
NUMPY_ENTRY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\w+)*)\s*(?::.*)?$")
PARAMETER_SECTIONS = ("args", "arguments", "parameters", "params")
SPHINX_PARAMETERS = ("param", "parameter", "arg", "argument")


@dataclass
class Docstring:
    """The description of a function and of its parameters."""

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)


def parse_docstring(text: str | None) -> Docstring:
    """Parse a docstring in any of the three styles; never fails."""
    lines = inspect.cleandoc(text or "").splitlines()
    start = _first_section(lines)
    description = "\n".join(lines[:start]).strip()
    read = Docstring(description)
    while start < len(lines):
        end = start + 1 + _first_section(lines[start + 1 :])
        if SPHINX_FIELD.match(lines[start]):
            _sphinx(lines[start:end], read.parameters)
        elif GOOGLE_SECTION.match(lines[start]):
            _section(lines[start], lines[start + 1 : end], GOOGLE_ENTRY, read)
        else:
            _section(lines[start], lines[start + 2 : end], NUMPY_ENTRY, read)
        start = end
    return read


def _first_section(lines: list[str]) -> int:
    """Return the index of the first line of a section, or the number of lines."""
    for index, line in enumerate(lines):
        underlined = index + 1 < len(lines) and UNDERLINE.match(lines[index + 1])
        named = GOOGLE_SECTION.match(line) or SPHINX_FIELD.match(line)
        if named or (line.strip() and not line[0].isspace() and underlined):
            return index
    return len(lines)


def _section(
    title: str, body: list[str], entry: re.Pattern[str], read: Docstring
) -> None:
    if title.strip(" :").lower() not in PARAMETER_SECTIONS:
        return
    lines = inspect.cleandoc("\n".join(["", *body])).splitlines()
    names: list[str] = []
    for line in lines:
        match = entry.match(line) if line[:1].strip() else None
        if match:
            names = [name.strip(" *") for name in match[1].split(",")]
            text = match[2] if entry is GOOGLE_ENTRY else ""
            read.parameters |= dict.fromkeys(names, text)
        else:
            _continue(read.parameters, names, line)


def _sphinx(lines: list[str], parameters: dict[str, str]) -> None:
    match = SPHINX_FIELD.match(lines[0])
    if match is None or match[1] not in SPHINX_PARAMETERS or not match[2]:
        return
    name = match[2].lstrip("*")
    parameters[name] = match[3]
    for line in lines[1:]:
        _continue(parameters, [name], line)


def _continue(parameters: dict[str, str], names: list[str], line: str) -> None:
    for name in names:
        parameters[name] = f"{parameters[name]} {line.strip()}".strip()
