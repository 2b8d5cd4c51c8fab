"""GBNF becomes Lark for the same texts, judged by an exhaustive recognizer."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.gbnf import is_lark, to_lark
from mlx_gptoss.harmony.constrain.grammar import LocalGrammars
from tests.support.fakes import byte_tokenizer

GRAMMARS = LocalGrammars(byte_tokenizer())
BYTES = 256
LETTERS = "abc"
NAMES = ("root", "r-1", "r-2")
# llama.cpp's own json.gbnf, in short.
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws (
             string ":" ws value   # the first
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]{1,15})? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def accepts(grammar: str, text: str) -> bool:
    """Whether a text is accepted, and complete."""
    compiled = GRAMMARS.compile("grammar", grammar, what="the grammar")
    matcher = GRAMMARS.matcher(compiled)
    for byte in text.encode():
        if not matcher.token_mask(BYTES)[byte]:
            return False
        matcher.accept(byte)
    return matcher.is_accepting


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "ye", "yesno"]),
        ('root ::= ""', [""], ["a"]),
        ('root ::= word "b"\nword ::= [a-z]*', ["b", "ab", "abb"], ["abc", "a"]),
        ('root ::= [a-z]* "ab" "c"', ["abc", "ababc"], ["ab", "abab"]),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["((x)", "x)"]),
        ('root ::= "x" root | "y"', ["y", "xxy"], ["x", "xyx"]),
        ('root ::= root "x" | "y"', ["y", "yxx"], ["x", "xy"]),
        ('root ::= "a" | x\nx ::= "b" x', ["a"], ["", "b", "bb"]),
        ('root ::= "caf\\u00e9\\x21\\U0001F600"', ["café!😀"], ["cafe!"]),
        ('root ::= [^\\n"\\]-]{2,}', ["ab", "é😀a"], ["a", "a\n", "a]", "a-"]),
        ("root ::= [a\\-c]+ [-x] [x-]", ["a-c-x", "ax-"], ["b-x", "a--b"]),
        ("root ::= .{3}", ["a\né"], ["ab", "abcd"]),
        ('root ::= "a"  # one\n  | "b"\n  "c"', ["a", "bc"], ["b", "ac"]),
        ('root::=x-1\nx-1::=("a"|"b"\n)?', ["", "a", "b"], ["ab"]),
        ('root ::= "a"{2} "b"{1,} "c"{0,1}', ["aab", "aabbc"], ["ab", "aac"]),
        ('root ::= item+ # list\nitem ::= "- " [^\\n]+ "\\n"\n', ["- a\n"], ["- a"]),
        ('start: "a" | "b"', ["a", "b"], ["c"]),
        (JSON, ['{"a": [1, -2.5e3, {"b": null}], "c": "\\u00e9"}'], ['{"a": 01}']),
    ],
    ids=lambda x: None,
)
def test_a_grammar_lets_through_what_it_says(
    grammar: str, good: Sequence[str], bad: Sequence[str]
) -> None:
    assert [one for one in good if not accepts(grammar, one)] == []
    assert [one for one in bad if accepts(grammar, one)] == []


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "no rule `root`"),
        ("a list of cities", r"line 1: expected a rule"),
        ('x ::= "a"', "no rule `root`"),
        ('root ::= "a"\nx ::= y', "rule `x` names `y`"),
        ('root ::= (\n"a"', r"line 2: expected `\)`"),
        ('root ::= "a" )', "line 1: expected a rule"),
        ('root ::= "a', 'line 1: cannot read `"`'),
        ("root ::= <think>", "line 1: cannot read `<`"),
        ("root ::= [z-a]", "runs backwards"),
        ("root ::= []", "is empty"),
        ("root ::= [a-z] root", "never comes to an end"),
        ("root ::= x\nx ::= x", "never comes to an end"),
        ('root ::= "\\q"', r"`\\q` in a literal is no escape"),
        ('root ::= "\\ud800"', "is no character"),
        (f"root ::= {'(' * 65}x{')' * 65}", "nested more than 64 deep"),
    ],
    ids=lambda x: None,
)
def test_what_is_no_grammar_is_refused_in_words(grammar: str, why: str) -> None:
    with pytest.raises(SchemaError, match=why) as refused:
        GRAMMARS.compile("grammar", grammar, what="the grammar")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "lark"),
    [
        ('start: "a"', True),
        ('%llguidance {}\nstart: "a"', True),
        ('x: "b"\n  start : x', True),
        ('start ::= "a"', False),
        ('root ::= "start:" "a"', False),
        ('restart: "a"', False),
    ],
)
def test_lark_is_known_by_where_it_starts(text: str, lark: bool) -> None:
    assert is_lark(text) is lark


# Nodes: a text, ("class", letters), ("not", letters), ("ref", name), ("seq", nodes),
# ("alt", nodes) or ("many", node, least, most).
LEAVES = st.one_of(
    st.text(LETTERS, max_size=2),
    st.text(LETTERS, min_size=1, max_size=2).map(lambda one: ("class", one)),
    st.text(LETTERS, min_size=1, max_size=2).map(lambda one: ("not", one)),
    st.sampled_from(NAMES).map(lambda name: ("ref", name)),
)


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    counts = st.sampled_from([(0, None), (1, None), (0, 1), (2, 2), (1, 2), (2, None)])
    return st.one_of(
        several.map(lambda nodes: ("seq", nodes)),
        several.map(lambda nodes: ("alt", nodes)),
        st.tuples(inner, counts).map(lambda pair: ("many", pair[0], *pair[1])),
    )


NODES = st.recursive(LEAVES, grown, max_leaves=5)


def spelled(node: Any) -> str:
    if isinstance(node, str):
        return f'"{node}"'
    kind, given = node[:2]
    if kind in ("class", "not"):
        return f"[{'^' * (kind == 'not')}{given}]"
    if kind == "ref":
        return given
    if kind == "seq":
        return f"({' '.join(map(spelled, given))})"
    if kind == "alt":
        return f"({' | '.join(map(spelled, given))})"
    least, most = node[2:]
    return f"{spelled(given)}{{{least},{'' if most is None else most}}}"


Ends = dict[tuple[str, int], frozenset[int]]


def ends(node: Any, text: str, at: int, known: Ends) -> frozenset[int]:
    """Return where a node that starts at `at` can end, given what is known of rules."""
    if isinstance(node, str):
        return frozenset([at + len(node)] if text.startswith(node, at) else [])
    kind, given = node[:2]
    if kind in ("class", "not"):
        fits = at < len(text) and (text[at] in given) == (kind == "class")
        return frozenset([at + 1] if fits else [])
    if kind == "ref":
        return known[given, at]
    if kind == "alt":
        return frozenset().union(*(ends(one, text, at, known) for one in given))
    if kind == "seq":
        found = frozenset([at])
        for one in given:
            found = frozenset().union(*(ends(one, text, n, known) for n in found))
        return found
    least, most = node[2:]
    now, found, seen = frozenset([at]), frozenset(), set()
    for count in range(len(text) + least + 2 if most is None else most + 1):
        found |= now if count >= least else frozenset()
        if (now, min(count, least)) in seen:
            break
        seen.add((now, min(count, least)))
        now = frozenset().union(*(ends(given, text, n, known) for n in now))
    return found


def recognized(rules: dict[str, Any], text: str) -> bool:
    """Whether a text is in the grammar, by iteration to a fixed point."""
    places = range(len(text) + 1)
    known: Ends = {(name, at): frozenset() for name in rules for at in places}
    while True:
        more = {
            (name, at): ends(body, text, at, known)
            for name, body in rules.items()
            for at in places
        }
        if more == known:
            return len(text) in known["root", 0]
        known = more


@settings(deadline=None, max_examples=20)
@given(
    bodies=st.tuples(NODES, NODES, NODES),
    texts=st.lists(st.text(LETTERS, max_size=5), min_size=4, max_size=8),
)
def test_lark_lets_through_the_very_texts_of_a_grammar(
    bodies: tuple[Any, Any, Any], texts: list[str]
) -> None:
    rules: dict[str, Any] = dict(zip(NAMES, bodies, strict=True))
    rules["root"] = ("alt", ["c", rules["root"]])  # so that it comes to an end
    grammar = "\n".join(f"{name} ::= {spelled(one)}" for name, one in rules.items())

    assert {text: accepts(grammar, text) for text in texts} == {
        text: recognized(rules, text) for text in texts
    }, to_lark(grammar)
