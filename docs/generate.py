"""Write docs/api.md, the reference of the public API, from its docstrings.

    python -m docs.generate

Lists what `mlx_gptoss.__all__` exports: signatures, docstrings, public methods. Knows
nothing of what the names do.
"""

import inspect
import re
import sys
import textwrap
from pathlib import Path

import mlx_gptoss
from mlx_gptoss import errors

PAGE = Path(__file__).with_name("api.md")
MODULE = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")  # of a qualified class name
OBJECT = re.compile(r"<[^\n]* at 0x[0-9a-f]+>|<factory>")  # a default without a literal
HEAD = """# Public API

Everything below is imported from `mlx_gptoss`, and errors from `mlx_gptoss.errors`;
[programs to start from](python.md). The
types `CacheOptions` and `BatchOptions` are in `mlx_gptoss.engine.prompt_cache` and
`mlx_gptoss.engine.scheduler`. Generated from the docstrings: `python -m docs.generate`.
"""
GROUPS = {
    "Load and generate": ("load", "LoadOptions", "Runtime", "SamplingParams"),
    "Converse": (
        "Chat",
        "Reply",
        "ReplyCall",
        "answer_all",
        "AsyncChat",
        "answer_all_async",
        "Tool",
        "Approval",
        "Sessions",
        "ReasoningMemory",
        "Message",
        "Statistics",
    ),
    "Events of a conversation": (
        "Event",
        "Answer",
        "Reasoning",
        "Preamble",
        "ToolCall",
        "ToolCallFailed",
        "ToolResult",
        "Done",
    ),
    "Constrain an answer": ("Constraints", "AnswerFormat"),
    "Mask what is private": ("Redactor", "Redaction"),
}


def page() -> str:
    """Return the whole page as Markdown."""
    parts, described = [HEAD], set[object]()
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [_describe(n, getattr(mlx_gptoss, n), described) for n in names]
    parts += ["## Errors\n", _errors()]
    return "\n".join(parts)


def _describe(name: str, thing: object, described: set[object]) -> str:
    """Describe a name; of members that were `described` before, only the names."""
    if not inspect.isclass(thing):
        return _entry("###", name, thing)
    lines, before = [_entry("###", name, thing)], list[str]()
    for member, found in _members(thing).items():
        if member.startswith("_"):
            continue
        if inspect.isroutine(found) or isinstance(found, property):
            if found in described:
                before.append(f"`{member}`")
                continue
            described.add(found)
        if isinstance(found, property):
            kind = _signature(found.fget).rpartition(" -> ")[2]
            lines.append(_entry("####", f"{name}.{member}", found, f": {kind}"))
        elif isinstance(found, classmethod | staticmethod):
            lines.append(_entry("####", f"{name}.{member}", getattr(thing, member)))
        elif inspect.isfunction(found):
            lines.append(_entry("####", f"{name}.{member}", found))
    if before:
        lines.append(f"Described above: {', '.join(before)}.\n")
    return "\n".join(lines)


def _members(thing: type) -> dict[str, object]:
    """Return the members of a class, and behind them those of its bases here."""
    found: dict[str, object] = {}
    for base in thing.__mro__:
        if base.__module__.startswith("mlx_gptoss."):
            found = found | {n: m for n, m in vars(base).items() if n not in found}
    return found


def _entry(level: str, name: str, thing: object, signature: str = "") -> str:
    text = inspect.cleandoc(getattr(thing, "__doc__", None) or "")
    assert text, f"`{name}` has no docstring"
    shown = signature or _signature(thing)
    code = f"```python\n{name}{shown}\n```\n" if shown else ""
    return f"{level} {name}\n\n{code}\n{_as_markdown(text)}\n"


def _signature(thing: object) -> str:
    try:
        found = inspect.signature(thing)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # has none, as an exception class
        return ""
    kept = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    short = str(found.replace(parameters=kept))
    line = _plain(short)
    if len(line) <= 88:
        return line
    listed = ",\n    ".join(_plain(str(p)) for p in _with_marks(kept))
    end = line[line.rindex(")") :] if " -> " in line else ")"
    return f"(\n    {listed},\n{end}"


def _plain(text: str) -> str:
    """Drop modules before class names, and the addresses of defaults."""
    return OBJECT.sub("...", MODULE.sub("", text)).replace("'", '"')


def _with_marks(parameters: list[inspect.Parameter]) -> list[object]:
    """Put the bare star before the first keyword-only parameter."""
    kinds = [p.kind for p in parameters]
    marked: list[object] = list(parameters)
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return marked
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        marked.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    return marked


def _as_markdown(text: str) -> str:
    """Fence the indented examples of a docstring."""
    blocks = []
    for block in re.split(r"\n{2,}", text):
        if block and all(line.startswith("    ") for line in block.splitlines()):
            block = f"```python\n{textwrap.dedent(block)}\n```"
        blocks.append(block)
    return "\n\n".join(blocks)


def _errors() -> str:
    lines = []
    for name, found in vars(errors).items():
        if inspect.isclass(found) and issubclass(found, errors.GptOssError):
            base = found.__mro__[1].__name__
            text = inspect.cleandoc(found.__doc__ or "").splitlines()[0]
            lines.append(f"- `{name}` (a `{base}`): {text}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.stdout.write(f"{PAGE}\n")
