"""The example that teaches a real language model Harmony: conversations and judges."""

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from examples.real_language_model import tools, topics
from examples.real_language_model.evaluate import Measured, table
from examples.real_language_model.harmony_cases import KINDS, Case, cases, judge
from examples.real_language_model.harmony_rows import prose, rows
from examples.real_language_model.harmony_tokens import (
    CONTROL_TOKENS,
    rename,
    write_head_rows,
    write_rows,
)
from examples.real_language_model.invented_tools import ToolMaker
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.checkpoint.tokenizer.tokenizer import HARMONY_TOKENS
from mlx_gptoss.harmony.messages import function_tools
from mlx_gptoss.workloads.tune.documents import Renderer
from mlx_gptoss.workloads.tune.row_forms import read_example
from mlx_gptoss.workloads.tune.settings import CorpusSettings
from tests.support.fakes import byte_tokenizer, token_ids

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "mlx_gptoss" / "demo"
COUNT = 80
SHARED_POOLS = {"day", "sky"}


# Control tokens


def test_all_control_tokens_get_names_of_other_tokens() -> None:
    names = [one.before for one in CONTROL_TOKENS.values()]
    renamed = rename(["a", *names, "b"])

    assert set(CONTROL_TOKENS) == set(HARMONY_TOKENS)
    assert renamed == ["a", *CONTROL_TOKENS, "b"]


def test_a_vocabulary_without_these_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="no `<issue_closed>`"):
        rename(["a", "b"])


def test_only_the_rows_of_renamed_tokens_are_written() -> None:
    like = sorted({name for one in CONTROL_TOKENS.values() for name in one.like})
    names = ["a", *(one.before for one in CONTROL_TOKENS.values()), *like, "b"]
    rows = np.random.default_rng(0).normal(size=(len(names), 3)).astype(np.float32)
    written = write_rows(rows, names)
    changed = np.flatnonzero((written != rows).any(axis=1)).tolist()

    assert changed == list(range(1, 1 + len(CONTROL_TOKENS)))
    start = names.index("<issue_start>")
    assert written[start].tolist() == rows[names.index("<|im_start|>")].tolist()


def test_rows_of_the_head_differ_from_each_other() -> None:
    like = sorted({name for one in CONTROL_TOKENS.values() for name in one.like})
    names = ["a", *(one.before for one in CONTROL_TOKENS.values()), *like, "b"]
    rows = np.random.default_rng(0).normal(size=(len(names), 64)).astype(np.float32)
    unused = slice(1, 1 + len(CONTROL_TOKENS))
    rows[unused] = rows[1]
    head = write_head_rows(rows, names)
    units = head / np.linalg.norm(head, axis=1, keepdims=True)
    alike = units[unused] @ units.T - np.eye(len(names), dtype=np.float32)[unused]

    assert np.flatnonzero((head != rows).any(axis=1)).tolist() == list(
        range(1, 1 + len(CONTROL_TOKENS))
    )
    assert alike.max() < 0.9


def test_invented_tools_differ_and_none_is_held_out() -> None:
    taken = {tool.name for tool in tools.HELD_OUT_TOOLS}
    every = {f"{verb}_{thing}" for verb in ("book", "get") for thing in ("a", "price")}
    maker = ToolMaker(random.Random(0), taken | every)
    names = [maker.draw().name for _ in range(500)]

    assert {*names}.isdisjoint(taken | every)
    assert len({*names}) > len(names) / 2


def test_a_request_of_an_invented_tool_has_all_values() -> None:
    rng = random.Random(0)
    maker = ToolMaker(rng)
    for tool in (maker.draw() for _ in range(200)):
        arguments, result = tool.draw(rng, held_out=False)

        assert all(str(value) in tool.requests[0] for value in arguments.values())
        assert set(arguments) == {one.name for one in tool.arguments}
        assert all(str(value) in tool.answer for value in result.values())


def test_prose_is_all_shown_before_any_again() -> None:
    passages = prose(random.Random(0))
    count = 0
    seen: set[str] = set()
    while (passage := next(passages)) not in seen:
        seen.add(passage)
        count += 1

    assert count == len(seen) > 100
    assert all(next(passages) in seen for _ in range(count - 1))


# Conversations


def test_every_row_can_be_learned() -> None:
    renderer = Renderer(Tokenizer.open(DEMO), CorpusSettings())
    for row in rows(COUNT, seed=5):
        documents = renderer.documents(read_example(row, renderer.settings))

        assert documents and all(document.learned.any() for document in documents)


def test_the_same_seed_writes_the_same_rows() -> None:
    once, again = (list(islice(rows(30, seed=7), 30)) for _ in range(2))

    assert once == again


def test_rows_are_of_every_kind() -> None:
    written = list(rows(300, seed=1))
    talks = [row for row in written if "messages" in row]
    roles = {message["role"] for row in talks for message in row["messages"]}
    called = [
        row for row in talks if any("tool_calls" in one for one in row["messages"])
    ]

    assert {row["reasoning_effort"] for row in talks} == {"low", "medium", "high"}
    assert roles == {"system", "user", "assistant", "tool"}
    assert any("text" in row for row in written)
    assert any("date" not in row for row in talks)
    assert 0 < len(called) < sum("tools" in row for row in talks) < len(talks)


def test_topics_tools_and_words_are_on_one_side_only() -> None:
    facts = [
        {fact.topic for fact in side} for side in (topics.FACTS, topics.HELD_OUT_FACTS)
    ]
    names = [
        {tool.name for tool in side} for side in (tools.TOOLS, tools.HELD_OUT_TOOLS)
    ]
    assert facts[0].isdisjoint(facts[1]) and names[0].isdisjoint(names[1])
    for ours, theirs in (
        (topics.INSTRUCTIONS, topics.HELD_OUT_INSTRUCTIONS),
        (topics.PEOPLE.split(), topics.HELD_OUT_PEOPLE.split()),
        (topics.ANIMALS.split(), topics.HELD_OUT_ANIMALS.split()),
        (topics.PLACES, topics.HELD_OUT_PLACES),
        (topics.LOST, topics.HELD_OUT_LOST),
        (topics.LISTS, topics.HELD_OUT_LISTS),
        (topics.REVIEWS, topics.HELD_OUT_REVIEWS),
        (topics.SMALL_TALK, topics.HELD_OUT_SMALL_TALK),
        (
            " ".join(topics.KINDS_OF_THINGS.values()).split(),
            " ".join(topics.HELD_OUT_KINDS.values()).split(),
        ),
        (topics.OPPOSITES.split(), topics.HELD_OUT_OPPOSITES.split()),
    ):
        assert set(ours).isdisjoint(theirs)
    for pool in tools.POOLS.keys() & tools.HELD_OUT_POOLS.keys() - SHARED_POOLS:
        sides = tools.POOLS[pool], tools.HELD_OUT_POOLS[pool]
        ours, theirs = (set(x.split("," if "," in x else None)) for x in sides)
        assert ours.isdisjoint(theirs), pool


@pytest.mark.parametrize("held_out", [False, True])
def test_every_tool_can_be_asked_for(held_out: bool) -> None:
    rng = random.Random(0)
    for tool in tools.HELD_OUT_TOOLS if held_out else tools.TOOLS:
        arguments, result = tool.draw(rng, held_out=held_out)
        written = tools.words(arguments | result)
        for text in (*tool.requests, tool.aim, tool.answer):
            assert "{" not in text.format(**written)
        assert set(arguments) == set(tool.entry["function"]["parameters"]["required"])


# Held-out prompts and their judges


def test_there_are_as_many_prompts_of_each_kind() -> None:
    drawn = cases(4)

    assert [case.kind for case in drawn] == [kind for kind in KINDS for _ in range(4)]
    assert all((case.call is not None) == (case.kind == "call") for case in drawn)
    assert all(case.messages[-1].role in ("user", "tool") for case in drawn)


def case_of(kind: str) -> Case:
    return next(case for case in cases(1) if case.kind == kind)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("<|channel|>final<|message|>Hi.<|return|>", True),
        (
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
            "<|channel|>final<|message|>Hi.<|return|>",
            True,
        ),
        ("<|channel|>final<|message|>Hi.", False),
        ("<|channel|>final<|message|>Hi.<|end|>", False),
        ("<|channel|>analysis<|message|>Hi.<|return|>", False),
        ("<|channel|>fin<|message|>Hi.<|return|>", False),
        ("<|channel|>final<|channel|>final<|message|>Hi.<|return|>", False),
        (" to=functions.none<|channel|>commentary<|message|>{}<|call|>", False),
        ("Hello there.<|return|>", False),
    ],
)
def test_answers_are_judged_strictly(text: str, valid: bool) -> None:
    tokenizer = byte_tokenizer()
    found = judge(token_ids(text, tokenizer), case_of("question"), tokenizer)

    assert (found.valid, found.call) == (valid, None), found.faults


def test_the_expected_call_is_recognized() -> None:
    tokenizer, case = byte_tokenizer(), case_of("call")
    name, _, arguments = (case.call or "").partition(" ")
    header = f" to=functions.{name}<|channel|>commentary <|constrain|>json<|message|>"
    good = judge(token_ids(f"{header}{arguments}<|call|>", tokenizer), case, tokenizer)
    cut = judge(token_ids(f"{header}{arguments[:-1]}", tokenizer), case, tokenizer)

    assert name in {tool.name for tool in function_tools(case.messages)}
    assert (good.valid, good.call) == (True, case.call)
    assert not cut.valid


def test_the_table_counts_valid_answers_and_calls() -> None:
    tokenizer, drawn = byte_tokenizer(), cases(2)
    ids = token_ids("<|channel|>final<|message|>Hi.<|return|>", tokenizer)
    answers = tuple(judge(ids, case, tokenizer) for case in drawn)
    lines = table(drawn, {"after": Measured(answers, 48.271)}).splitlines()

    assert lines[2:] == [
        *(f"| {kind} | 2 of 2 |" for kind in KINDS),
        "| valid Harmony | 100.0% of 10 |",
        "| calls as expected | 0 of 2 |",
        "| perplexity, persuasion.txt | 48.27 |",
    ]
