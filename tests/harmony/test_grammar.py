"""Random texts that a grammar accepts, judged by jsonschema."""

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.grammar import GrammarKind, LocalGrammars
from mlx_gptoss.harmony.constrain.schema.keywords import FORMATS
from tests.support.fakes import byte_tokenizer
from tests.support.schema_values import exactly

GRAMMARS = LocalGrammars(byte_tokenizer())
BYTES = 256
PATIENCE = 400  # tokens; a text that takes longer is left unfinished
TO_THE_END = np.frombuffer(b'"}],', np.uint8)  # drawn more often, to come to an end

NAMES = st.text('abcxyz_ "\\\\é', min_size=1, max_size=6)
JSON_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-99, 99), st.text('aé"\\\\', max_size=4)
)


def ranges(
    low: str, high: str, values: st.SearchStrategy[Any]
) -> st.SearchStrategy[Any]:
    """Return ordered bounds, either of which may be missing."""
    pairs = st.tuples(values, values).map(sorted)
    both = pairs.map(lambda pair: {low: pair[0], high: pair[1]})
    one = values.map(lambda value: {low: value})
    return st.one_of(st.just({}), one, both)


LEAVES = st.one_of(
    st.sampled_from([{"type": kind} for kind in ("boolean", "null", "string")]),
    st.sampled_from([{"type": "string", "format": one} for one in ("date", "uuid")]),
    ranges("minLength", "maxLength", st.integers(0, 6)).map(
        lambda more: {"type": "string", **more}
    ),
    st.sampled_from(["[a-c]{1,3}", "x?y+", "^a.b$"]).map(
        lambda pattern: {"type": "string", "pattern": f"^(?:{pattern})$"}
    ),
    ranges("minimum", "maximum", st.integers(-200, 200)).map(
        lambda more: {"type": "integer", **more}
    ),
    ranges("minimum", "maximum", st.sampled_from([-2.5, -1.0, 0.0, 0.25, 3.0])).map(
        lambda more: {"type": "number", **more}
    ),
    st.lists(JSON_VALUES, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    JSON_VALUES.map(lambda value: {"const": value}),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.dictionaries(NAMES, inner, max_size=3)
    objects = st.tuples(fields, st.booleans(), st.one_of(st.booleans(), inner)).map(
        lambda parts: {
            "type": "object",
            "properties": parts[0],
            "required": sorted(parts[0])[: 2 if parts[1] else 0],
            "additionalProperties": parts[2],
        }
    )
    arrays = st.tuples(inner, ranges("minItems", "maxItems", st.integers(0, 3))).map(
        lambda parts: {"type": "array", "items": parts[0], **parts[1]}
    )
    unions = st.lists(inner, min_size=1, max_size=3).map(lambda all: {"anyOf": all})
    return st.one_of(objects, arrays, unions)


SCHEMAS = st.recursive(LEAVES, grown, max_leaves=6)


KINDS: tuple[GrammarKind, ...] = ("json_schema", "arguments")


def drawn(
    schema: Any, seed: int, kind: GrammarKind = "json_schema", *, strict: bool = False
) -> str | None:
    """Return a text that the grammar of `schema` accepts, or None if it takes long."""
    compiled = GRAMMARS.compile(kind, schema, what="a schema", strict=strict)
    matcher = GRAMMARS.matcher(compiled)
    source = random.Random(seed)
    text = bytearray()
    for _ in range(PATIENCE):
        legal = np.flatnonzero(matcher.token_mask(BYTES))
        if matcher.is_accepting and (not len(legal) or source.random() < 0.5):
            return text.decode()
        ends = np.intersect1d(legal, TO_THE_END)
        some = ends if len(ends) and source.random() < 0.5 else legal
        token = int(source.choice(some))
        matcher.accept(token)
        text.append(token)
    return None


def check(schema: Any, seed: int, kind: GrammarKind = "json_schema") -> bool:
    """Check that a random text is JSON the schema allows; False if there is none."""
    text = drawn(schema, seed, kind)
    if text is None:
        return False
    value = exactly(text)
    if "Infinity" in json.dumps(value):  # a number that cannot be judged
        return False
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.FormatChecker()
    ).validate(value)
    if kind == "arguments":
        mixed = json.dumps(shuffled(value, random.Random(seed)), ensure_ascii=False)
        assert lets_through(schema, mixed, kind), mixed
    return True


def shuffled(value: Any, source: random.Random) -> Any:
    """Return the value with the fields of its objects in another order."""
    if isinstance(value, list):
        return [shuffled(one, source) for one in value]
    if not isinstance(value, dict):
        return value
    names = source.sample(list(value), len(value))
    return {name: shuffled(value[name], source) for name in names}


def lets_through(schema: Any, text: str, kind: GrammarKind) -> bool:
    """Whether the grammar accepts `text` up to its end."""
    matcher = GRAMMARS.matcher(GRAMMARS.compile(kind, schema, what="a schema"))
    for byte in text.encode():
        if not matcher.token_mask(BYTES)[byte]:
            return False
        matcher.accept(byte)
    return matcher.is_accepting


NOISY = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None, suppress_health_check=NOISY)
@given(schema=SCHEMAS, seed=st.integers(0, 2**16))
def test_a_finished_text_is_what_its_schema_allows(
    kind: GrammarKind, schema: Any, seed: int
) -> None:
    check(schema, seed, kind)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5000, deadline=None, suppress_health_check=NOISY)
@given(schema=SCHEMAS, seed=st.integers(0, 2**16))
def test_a_finished_text_is_what_its_schema_allows_at_length(
    kind: GrammarKind, schema: Any, seed: int
) -> None:
    check(schema, seed, kind)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_enforced(name: str) -> None:
    schema = {"type": "string", "format": name}
    texts = [drawn(schema, seed) for seed in range(5)]

    GRAMMARS.compile("json_schema", schema, what="a schema")
    assert all(text is None or json.loads(text) for text in texts)
    with pytest.raises(SchemaError):
        matcher = GRAMMARS.matcher(
            GRAMMARS.compile("json_schema", schema, what="a schema")
        )
        for byte in b'"no such thing: !"':
            matcher.accept(byte)


def test_a_format_that_nobody_knows_is_a_remark() -> None:
    schema = {
        "type": "object",
        "properties": {"format": {"type": "string", "format": "shoe-size"}},
        "required": ["format"],
        "additionalProperties": False,
    }

    assert any(check(schema, seed) for seed in range(9))


def test_ids_beyond_the_vocabulary_are_never_allowed() -> None:
    matcher = GRAMMARS.matcher(GRAMMARS.compile("regex", ".*", what="a pattern"))

    allowed = matcher.token_mask(400)

    assert allowed[ord("a")] and not allowed[BYTES:].any()
    assert matcher.token_mask(64).shape == (64,)
