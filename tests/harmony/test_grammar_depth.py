"""Depth limits of schemas and grammars, through references and rules."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain import grammar
from mlx_gptoss.harmony.constrain.depth import MAX_DEPTH, depth_of_lark
from mlx_gptoss.harmony.constrain.schema.compile import WHOLE_SCHEMA
from mlx_gptoss.harmony.constrain.worker import (
    WorkerGrammars,
)
from mlx_gptoss.harmony.constrain.worker.supervisor import Supervisor
from tests.harmony.test_grammar_worker import TOKENIZER, until


@pytest.fixture(scope="module")
def own() -> Iterator[WorkerGrammars]:
    supervisor = Supervisor(idle_seconds=0.1)
    found = WorkerGrammars(TOKENIZER, supervisor)
    yield found
    found.close()
    until(lambda: supervisor.pid is None)


# Depth


def chained(count: int) -> dict[str, Any]:
    """Return `count` objects nested by reference."""
    fields = [{"a": {"$ref": f"#/$defs/at{n + 1}"}} for n in range(count)]
    link = {f"at{n}": {"properties": one} for n, one in enumerate(fields)}
    return {"$ref": "#/$defs/at0", "$defs": {**link, f"at{count}": {"const": 1}}}


JUST = MAX_DEPTH // 3  # objects: each is a schema, its fields, and a reference


def test_references_may_lead_as_deep_as_they_may(own: WorkerGrammars) -> None:
    fine, deep = chained(JUST - 100), chained(JUST + 1)

    assert own.compile("json_schema", fine, what="a chain").unenforced == ()
    assert own.compile("json_schema", deep, what="a chain").unenforced == (
        WHOLE_SCHEMA,
    )
    with pytest.raises(SchemaError, match="its references lead more than 1,000 deep"):
        own.compile("json_schema", deep, what="a chain", strict=True)


def test_references_that_lead_back_are_no_depth(own: WorkerGrammars) -> None:
    tree = {
        "type": "object",
        "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}},
        "additionalProperties": False,
    }

    assert own.compile("arguments", tree, what="a tree").unenforced == ()


@pytest.mark.parametrize(
    ("kind", "rule", "last", "start"),
    (
        ("lark", 'r{0}: "a" r{1}\n', 'r{0}: "b"', "start: r0\n"),
        ("lark", 'T{0}: "a" T{1}\n', 'T{0}: "b"', "start: T0\n"),
        ("lark", "\n  r{0} : r{1} // r0 r0\n", 'r{0}: "b"', "start: r0\n"),
        ("lark", 'r-{0}: "a" r-{1}\n', 'r-{0}: "b"', "start: r-0\n"),
        ("lark", "r{0}: Ar{1}\n", 'r{0}: "b"', 'start: r0\nA: "a"\n'),
        ("lark", 'T{0}: "a"iT{1}\n', 'T{0}: "b"', "start: T0\n"),
        ("lark", "T{0}: /a/iT{1}\n", 'T{0}: "b"', "start: T0\n"),
        ("lark", 'T{0}: /\n"/ T{1} "a"\n', 'T{0}: "b"', "start: T0\n"),
        ("lark", 'T{0}: T{1} "a"\n', 'T{0}: "b"', 'start: "a"\n%ignore T0\n'),
        ("grammar", 'r{0} ::= "a" r{1}\n', 'r{0} ::= "b"', "root ::= r0\n"),
    ),
)
def test_rules_may_lead_as_deep_as_they_may(
    own: WorkerGrammars, kind: grammar.GrammarKind, rule: str, last: str, start: str
) -> None:
    def chain(count: int) -> str:
        rules = "".join(rule.format(n, n + 1) for n in range(count))
        return start + rules + last.format(count)

    own.compile(kind, chain(MAX_DEPTH - 100), what="a chain")
    with pytest.raises(SchemaError, match="its rules lead more than 1,000 deep"):
        own.compile(kind, chain(MAX_DEPTH + 1), what="a chain")


SHALLOW = " ".join(f"r{n}" for n in reversed(range(MAX_DEPTH + 2)))


@pytest.mark.parametrize(
    "around",
    (
        "{0}\nstart: r0",  # the last rule first
        "start: " + SHALLOW + "\n{0}\n%override start: r0",
        "start: %lark {{ start: r0\n{0}\n}}",
        "start: "
        + SHALLOW
        + " %lark {{ start: r0\n{0}\n}}\n"
        + "\n".join(f'{name}: "c"' for name in SHALLOW.split()),
    ),
)
def test_no_order_of_rules_hides_their_depth(own: WorkerGrammars, around: str) -> None:
    def chain(count: int) -> str:
        rules = [f'r{n}: "a" r{n + 1}' for n in range(count)]
        return around.format("\n".join([f'r{count}: "b"', *reversed(rules)]))

    with pytest.raises(SchemaError, match="its rules lead more than 1,000 deep"):
        own.compile("lark", chain(MAX_DEPTH + 1), what="a chain")


def test_a_long_way_through_brackets_and_attributes_is_no_depth() -> None:
    text = """start[capture="a:b"]: pair::0 [word] (word
      | NUMBER){2,3} <[1-3]>
    pair::_: "x" pair::incr([0:8]) %if lt([0:8], 5)
      | "y"
    word[stop=NUMBER]: /[a-z"]+/i
    NUMBER.2: "1".."9"
    """
    assert depth_of_lark(text) == len(("start", "word", "NUMBER"))


def test_text_that_never_closes_is_read_once() -> None:
    began = time.process_time()
    for end in ('"', "/"):
        depth_of_lark("start: " + f"{end}\\" * 100_000)

    assert time.process_time() - began < 5  # quadratic: minutes


def test_a_schema_in_a_grammar_counts_too(own: WorkerGrammars) -> None:
    def wrapped(count: int) -> str:
        return f"start: %json {json.dumps(chained(count))}"

    own.compile("lark", wrapped(JUST - 100), what="a chain")
    with pytest.raises(SchemaError, match="lead more than 1,000 deep"):
        own.compile("lark", wrapped(JUST + 1), what="a chain")
