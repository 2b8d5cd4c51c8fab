"""Streams that the library misreads: the rows of harmony/README.md, on both sides."""

import json
import re
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import openai_harmony
import pytest

from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.parse.arguments import parse_arguments
from mlx_gptoss.harmony.parse.parser import Parser
from mlx_gptoss.harmony.parse.tool_names import is_tool_name
from tests.support.readme_tables import code, table
from tests.support.vocabulary import O200k, ids_of, is_oss_harmony, oracle

VOCABULARY = O200k()
ASSISTANT = openai_harmony.Role.ASSISTANT
EXAMPLES = 1000
SOAK_EXAMPLES = 50_000

Read = tuple[Any, ...]  # channel, recipient, content type, text, role, name
MARK = re.compile(r"<\|[a-z]+\|>")


def library_reads(ids: list[int]) -> list[Read]:
    found = oracle().parse_messages_from_completion_tokens(ids, ASSISTANT)
    return [
        (
            one.channel,
            one.recipient,
            one.content_type,
            "".join(content.to_dict()["text"] for content in one.content),
            one.author.role.value,
            one.author.name,
        )
        for one in found
    ]


def we_read(ids: list[int]) -> list[Read]:
    parser = Parser(VOCABULARY)
    for token in ids:
        parser.feed(token)
    parser.finish()
    return [
        (one.channel, one.recipient, one.content_type, one.text, one.role, one.name)
        for one in parser.messages
    ]


MISREAD = table("| what | stream behind")


def listed(cell: str) -> list[list[Any]]:
    """Return the messages in a cell of the table, for the installed version."""
    versions = re.split(r"0\.0\.8|, 0\.0\.11", cell)
    cell = versions[-1 if is_oss_harmony() else min(1, len(versions) - 1)]
    return [json.loads(text) for text in code(cell) if text.startswith("[")]


@pytest.mark.parametrize("row", MISREAD, ids=lambda row: row[0])
def test_a_stream_is_read_as_the_table_says(row: list[str]) -> None:
    ids = ids_of(code(row[1])[0])
    library = library_reads(ids)

    assert [list(one[:4]) for one in library] == listed(row[2])
    assert [list(one[:4]) for one in we_read(ids)] == listed(row[3])
    assert MISREADINGS[row[0]](code(row[1])[0], library)


def any_of(test: Callable[[Read], bool]) -> Callable[[str, list[Read]], bool]:
    return lambda stream, found: any(map(test, found))


def is_call(one: Read) -> bool:
    return one[4] == "assistant" and bool(one[1]) and one[1] != "python"


def holds_mark(text: str | None) -> bool:
    return bool(text and MARK.search(text))


# By row of the table: does the library's reading of a stream have this fault?
MISREADINGS: dict[str, Callable[[str, list[Read]], bool]] = {
    "a word is no recipient": lambda stream, found: any(
        one[1] and f"to={one[1]}" not in stream for one in found
    ),
    "a content type is no recipient": any_of(lambda one: one[1] in ("json", "code")),
    "a word is no content type": any_of(
        lambda one: bool(one[2]) and not re.fullmatch(r"[\w/+.|<>-]+", one[2])
    ),
    "a channel nobody knows": any_of(lambda one: one[0] not in (None, *m.CHANNELS)),
    "a mark inside a header": any_of(
        lambda one: any(
            map(
                holds_mark, (*one[:2], (one[2] or "").removeprefix(m.CONSTRAIN), one[5])
            )
        )
    ),
    "a mark inside a message": any_of(lambda one: holds_mark(one[3])),
    "two channels": lambda stream, found: bool(
        re.search(r"<\|channel\|>((?!<\|message\|>).)*<\|channel\|>", stream, re.DOTALL)
    ),
    "a word is no role": any_of(
        lambda one: (
            one[4] == "tool" and one[1] != "assistant" and not is_tool_name(one[5])
        )
    ),
    "a role with a name": any_of(lambda one: ":" in (one[5] or "")),
    "the assistant is no tool": any_of(
        lambda one: one[4] == "assistant" and one[1] in (*m.ROLES, "all")
    ),
    "prose to a tool on analysis": any_of(
        lambda one: (
            is_call(one)
            and one[0] == "analysis"
            and bool(parse_arguments(one[3]).problem)
        )
    ),
    "arguments that can be mended": any_of(
        lambda one: is_call(one) and bool(parse_arguments(one[3]).repair)
    ),
}


def test_the_table_of_misreadings_is_whole() -> None:
    assert {row[0] for row in MISREAD} == set(MISREADINGS)


STARTS = [
    *["assistant"] * 20,
    "user",
    "system",
    "developer",
    "functions.f to=assistant<|channel|>commentary",
    "python to=assistant<|channel|>analysis",
    "user:name",
    "",
    "Web",
]
HEADERS = [
    "",
    "<|channel|>analysis",
    "<|channel|>final",
    "<|channel|>commentary",
    " to=functions.f<|channel|>commentary",
    "<|channel|>commentary to=functions.f",
    "<|channel|>commentary to=functions.f json",
    "<|channel|>commentary to=functions.f <|constrain|>json",
    " to=functions.f<|channel|>commentary <|constrain|>json",
    "<|channel|>final <|constrain|>json",
    " to=python<|channel|>analysis",
    "<|channel|>analysis to=python code",
    "<|channel|>analysis to=functions.f code",
]
TEXTS = ["Hi", "We must", "  x\n", " to=functions.f", "[{}]", "", *['{"a": 1}'] * 6]
ENDS = [*["<|end|>"] * 8, "<|return|>", *["<|call|>"] * 4, ""]
NOISY = 0.15
NOISE = [
    "assistant",
    "tool",
    "analysis",
    " to=assistant",
    " json",
    "We",
    " I",
    "<|start|>",
    "<|channel|>",
    "<|channel|>final",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|endoftext|>",
    ":name",
]


def random_stream(random: Random) -> str:
    """Return one to four messages, well-formed or nearly so, as an assistant writes."""
    stream = ""
    for place in range(random.randint(1, 4)):
        noise = [random.choice(NOISE) * (random.random() < NOISY) for _ in "ab"]
        start, header, text, end = map(random.choice, [STARTS, HEADERS, TEXTS, ENDS])
        stream += f"<|start|>{start}" if place else ""
        stream += f"{header}{noise[0]}<|message|>{text}{noise[1]}{end}"
    return stream


def agree(seed: int, examples: int) -> Counter[str]:
    """Parse random streams with both; count equal, listed and failed results."""
    counts: Counter[str] = Counter()
    random = Random(seed)
    for _ in range(examples):
        stream = random_stream(random)
        ids = ids_of(stream)
        try:
            library = library_reads(ids)
        except openai_harmony.HarmonyError:
            counts["an error there"] += 1
            continue
        alike = library == we_read(ids)
        counts["alike" if alike else "as listed"] += 1
        faults = [name for name, has in MISREADINGS.items() if has(stream, library)]
        assert alike or faults, f"{stream}: {library}"
    return counts


def test_what_the_library_reads_is_read_alike_but_for_the_table() -> None:
    counts = agree(seed=0, examples=EXAMPLES)

    assert counts["alike"] > EXAMPLES // 5


@pytest.mark.soak
def test_many_streams_are_read_alike_but_for_the_table(
    request: pytest.FixtureRequest,
) -> None:
    if "soak" not in request.config.option.markexpr:
        pytest.skip("run by hand: pytest -m soak")
    counts = agree(seed=1, examples=SOAK_EXAMPLES)

    print(dict(counts))
    assert counts["alike"] > SOAK_EXAMPLES // 5
