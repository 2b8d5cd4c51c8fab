"""The grammar of a JSON schema: kept as far as it goes, or to the letter.

    found = schema_grammar(schema, ordered=False, strict=False)
    found.grammar, found.freed

What cannot be kept is left free: the keyword; where that does not help (the schema
allows nothing, or is too large) what contradicts; at last all of it. With `strict`
a schema is kept to the letter, by rules of our own or by the library's, or refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import llguidance

from mlx_gptoss.harmony.constrain.depth import MAX_DEPTH, depth_of_schema, is_too_deep
from mlx_gptoss.harmony.constrain.schema.keywords import FORMATS
from mlx_gptoss.harmony.constrain.schema.lark_writer import LarkGrammar, write_grammar
from mlx_gptoss.harmony.constrain.schema.terminals import WHITESPACE

MAX_NESTING = (
    64  # objects and lists around a part of a schema: those within say nothing
)
VERBATIM = ("const", "enum", "default", "examples")  # no schemas
WHOLE_SCHEMA = ("", "schema")  # freed: all of it
ANY_VALUE = {
    True: True,
    False: {"type": "object"},
}  # schemas: of an answer, of arguments
MOST_BITS = 4096  # of a whole number
Unenforced = dict[
    str | None, tuple[tuple[str, str], ...]
]  # by recipient; None: the answer
SHOWN = 3  # keywords that an error names


@dataclass(frozen=True)
class CompiledGrammar:
    """The library's form of a grammar, and what it leaves free of a schema.

    `freed` are fields ("" is the schema itself) and their keywords. A text bound so
    `loosely` may be left free altogether, where its grammar turns out to cost too much.
    """

    grammar: str
    unenforced: tuple[tuple[str, str], ...] = ()
    best_effort: bool = False


def compile_schema(schema: Any, *, ordered: bool, strict: bool) -> CompiledGrammar:
    """Return the grammar of a schema, which is JSON.

    With `strict`, raises ValueError that says what cannot be kept.
    """
    if strict and _is_deep(schema, MAX_NESTING):
        raise ValueError(f"its parts are nested more than {MAX_NESTING} deep")
    leads = depth_of_schema(cut := limit_nesting(schema))
    if strict and leads > MAX_DEPTH:
        raise ValueError(f"its references lead more than {MAX_DEPTH:,} deep")
    notes = (WHOLE_SCHEMA,) if _is_deep(schema, MAX_NESTING) else ()
    written = None if leads > MAX_DEPTH else _written(cut, ordered=ordered)
    if strict and not (written and written.exact and written.lark):
        return _by_the_library(schema, written)
    if written is not None and written.lark is None:
        written = _written(cut, ordered=ordered, forgiving=True)
    if written is not None and written.lark is not None:
        grammar = llguidance.LLMatcher.grammar_from_lark(written.lark)
        if not is_too_deep(written.lark) and unsupported_reason(grammar) is None:
            return CompiledGrammar(
                grammar, notes + written.unenforced, best_effort=not strict
            )
    anything = compile_schema(ANY_VALUE[ordered], ordered=ordered, strict=False)
    return replace(anything, unenforced=(WHOLE_SCHEMA,))


def list_unenforced(freed: Sequence[tuple[str, str]]) -> str:
    """Name what is left free: `pattern` of `n`, `not` of `x` and 2 more."""
    words = []
    for where, keyword in freed[:SHOWN]:
        if keyword == "schema":
            words.append(f"`{where}`, which is no schema" if where else "all it says")
        else:
            words.append(f"`{keyword}`{f' of `{where}`' * bool(where)}")
    more = f" and {len(freed) - SHOWN} more" if len(freed) > SHOWN else ""
    return ", ".join(words) + more


def unenforced_lines(freed: Unenforced) -> list[str]:
    """Say what is left free of each schema, in a line for people."""
    return [
        f"not enforced in {'the answer' if recipient is None else f'`{recipient}`'}: "
        + list_unenforced(found)
        for recipient, found in freed.items()
    ]


def limit_nesting(schema: Any, deepest: int = MAX_NESTING) -> Any:
    """The schema, or one in which what is nested too deeply says nothing.

    Nor does a number that Python would not write.
    """
    huge = any(any(map(_is_huge, level)) for level in _levels(schema, deepest))
    return _cut(schema, deepest) if huge or _is_deep(schema, deepest) else schema


def unsupported_reason(grammar: str) -> str | None:
    """Why the library does not take a grammar, in a line; None if it does."""
    failed, lines = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    if not failed:
        return None
    lines = [line.strip() for text in lines for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("error:")]
    found = (errors or [line for line in lines if line] or ["it says nothing"])[0]
    return found.removeprefix("error:").strip()


def _written(
    schema: Any, *, ordered: bool, forgiving: bool = False
) -> LarkGrammar | None:
    """The grammar in Lark; None if it would be too large."""
    try:
        return write_grammar(
            schema, _refusal, ordered=ordered, drop_contradictions=forgiving
        )
    except (OverflowError, RecursionError):
        return None


def _refusal(schema: Mapping[str, Any]) -> str | None:
    return _refusal_of(json.dumps(schema))


@lru_cache(1024)
def _refusal_of(text: str) -> str | None:
    return unsupported_reason(llguidance.LLMatcher.grammar_from_json_schema(text))


def _by_the_library(schema: Any, written: LarkGrammar | None) -> CompiledGrammar:
    """The library's own grammar, which takes fields in the schema's order only."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(_for_library(schema)), overrides={"whitespace_pattern": WHITESPACE}
    )
    if unsupported_reason(grammar) is None:
        return CompiledGrammar(grammar)
    freed = written.unenforced if written else ()
    if freed:
        raise ValueError(f"no grammar keeps {list_unenforced(freed)}")
    if written and written.lark is None:
        raise ValueError("it allows no value")
    raise ValueError("it is too large, or says too much at once")


def _for_library(schema: Any) -> Any:
    """The same without formats that are remarks; `nullable` in JSON Schema's words."""
    if isinstance(schema, list):
        return [_for_library(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out = {
        key: value if key in VERBATIM else _for_library(value)
        for key, value in schema.items()
        if key != "format" or not isinstance(value, str) or value in FORMATS
    }
    if out.get("nullable") is not True:
        return out
    return {"anyOf": [{**out, "nullable": False}, {"type": "null"}]}


def _is_deep(schema: Any, deepest: int) -> bool:
    return sum(1 for _ in _levels(schema, deepest + 1)) > deepest + 1


def _levels(schema: Any, deepest: int) -> Iterator[list[Any]]:
    """What stands at each depth, from the outside, to `deepest` objects and lists."""
    level = [schema]
    for _ in range(deepest + 1):
        if not level:
            return
        yield level
        level = [inner for outer in level for inner in _inside(outer)]


def _cut(schema: Any, left: int) -> Any:
    if isinstance(schema, Mapping):
        if left <= 0:
            return {}
        return {key: _cut(value, left - 1) for key, value in schema.items()}
    if isinstance(schema, list):
        return [] if left <= 0 else [_cut(value, left - 1) for value in schema]
    return None if _is_huge(schema) else schema


def _is_huge(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() > MOST_BITS


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []
