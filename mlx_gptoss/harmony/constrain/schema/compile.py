"""Compile a JSON schema to a grammar: as far as possible, or exactly.

    compiled = compile_schema(schema, ordered=False, strict=False)
    compiled.grammar, compiled.unenforced

A keyword that no grammar expresses is left unenforced; if the schema then allows
nothing or is too large, contradicting keywords as well; as a last resort the whole
schema. A `strict` schema is enforced exactly, by our rules or by the library's, or
refused.
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
VERBATIM = ("const", "enum", "default", "examples")  # values, not schemas
WHOLE_SCHEMA = ("", "schema")  # unenforced: everything
ANY_VALUE = {
    True: True,
    False: {"type": "object"},
}  # by `ordered`: of an answer, of arguments
MAX_BITS = 4096  # of a whole number
Unenforced = dict[
    str | None, tuple[tuple[str, str], ...]
]  # by recipient; None is the answer
SHOWN = 3  # keywords that an error names


@dataclass(frozen=True)
class CompiledGrammar:
    """The library's form of a grammar, and the keywords of a schema it ignores.

    `unenforced` are pairs of a field ("" is the schema itself) and a keyword. A
    `best_effort` grammar may be given up entirely if it turns out to cost too much.
    """

    grammar: str
    unenforced: tuple[tuple[str, str], ...] = ()
    best_effort: bool = False


def compile_schema(schema: Any, *, ordered: bool, strict: bool) -> CompiledGrammar:
    """Compile a schema, which must be JSON.

    With `strict`, raises ValueError, which says what cannot be enforced.
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
        written = _written(cut, ordered=ordered, drop_contradictions=True)
    if written is not None and written.lark is not None:
        grammar = llguidance.LLMatcher.grammar_from_lark(written.lark)
        if not is_too_deep(written.lark) and unsupported_reason(grammar) is None:
            return CompiledGrammar(
                grammar, notes + written.unenforced, best_effort=not strict
            )
    anything = compile_schema(ANY_VALUE[ordered], ordered=ordered, strict=False)
    return replace(anything, unenforced=(WHOLE_SCHEMA,))


def list_unenforced(unenforced: Sequence[tuple[str, str]]) -> str:
    """Name unenforced keywords: `pattern` of `n`, `not` of `x` and 2 more."""
    words = []
    for where, keyword in unenforced[:SHOWN]:
        if keyword == "schema":
            words.append(f"`{where}`, which is no schema" if where else "all it says")
        else:
            words.append(f"`{keyword}`{f' of `{where}`' * bool(where)}")
    more = f" and {len(unenforced) - SHOWN} more" if len(unenforced) > SHOWN else ""
    return ", ".join(words) + more


def unenforced_lines(unenforced: Unenforced) -> list[str]:
    """Return a readable line for each schema with unenforced keywords."""
    return [
        f"not enforced in {'the answer' if recipient is None else f'`{recipient}`'}: "
        + list_unenforced(found)
        for recipient, found in unenforced.items()
    ]


def limit_nesting(schema: Any, deepest: int = MAX_NESTING) -> Any:
    """Return the schema with parts that are nested too deeply emptied.

    A number too large for Python to print becomes null.
    """
    huge = any(any(map(_is_huge, level)) for level in _levels(schema, deepest))
    return _cut(schema, deepest) if huge or _is_deep(schema, deepest) else schema


def unsupported_reason(grammar: str) -> str | None:
    """Say in a line why the library rejects a grammar; None if it accepts it."""
    failed, lines = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    if not failed:
        return None
    lines = [line.strip() for text in lines for line in text.splitlines()]
    errors = [line for line in lines if line.startswith("error:")]
    found = (errors or [line for line in lines if line] or ["it says nothing"])[0]
    return found.removeprefix("error:").strip()


def _written(
    schema: Any, *, ordered: bool, drop_contradictions: bool = False
) -> LarkGrammar | None:
    """Write the grammar in Lark; None if it would be too large."""
    try:
        return write_grammar(
            schema,
            _unsupported,
            ordered=ordered,
            drop_contradictions=drop_contradictions,
        )
    except (OverflowError, RecursionError):
        return None


def _unsupported(schema: Mapping[str, Any]) -> str | None:
    return _unsupported_json(json.dumps(schema))


@lru_cache(1024)
def _unsupported_json(text: str) -> str | None:
    return unsupported_reason(llguidance.LLMatcher.grammar_from_json_schema(text))


def _by_the_library(schema: Any, written: LarkGrammar | None) -> CompiledGrammar:
    """Use the library's own grammar, which takes fields in the schema's order only."""
    grammar = llguidance.LLMatcher.grammar_from_json_schema(
        json.dumps(_for_library(schema)), overrides={"whitespace_pattern": WHITESPACE}
    )
    if unsupported_reason(grammar) is None:
        return CompiledGrammar(grammar)
    unenforced = written.unenforced if written else ()
    if unenforced:
        raise ValueError(f"no grammar keeps {list_unenforced(unenforced)}")
    if written and written.lark is None:
        raise ValueError("it allows no value")
    raise ValueError("it is too large, or says too much at once")


def _for_library(schema: Any) -> Any:
    """Drop formats that are annotations, and express `nullable` in JSON Schema."""
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
    """Yield the values at each depth, from the outside in."""
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
    return isinstance(value, int) and value.bit_length() > MAX_BITS


def _inside(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list) else []
