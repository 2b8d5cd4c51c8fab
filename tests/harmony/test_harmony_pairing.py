"""Results follow their calls, in the order of the calls; errors name what is odd."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.tool_results import UNANSWERED, Pairing

NO_RESULT = m.tool_result("f", UNANSWERED)


def call(what: str) -> m.Message:
    return m.tool_call("f", f'"{what}"')


def result(what: str) -> m.Message:
    return m.tool_result("f", f"of {what}")


def paired(*said: Any, to_answer: bool = True) -> list[m.Message]:
    """`("A", "B")` are calls, `"A"` is a result, the rest are messages."""
    pairing = Pairing("call_id")
    for at, one in enumerate(said):
        where = f"messages[{at}]"
        if isinstance(one, tuple):
            pairing.add_messages(map(call, one), [(id, where) for id in one])
        elif isinstance(one, str):
            pairing.add_result(f"of {one}", id=one, where=where)
        else:
            pairing.add_messages([one])
    return pairing.messages(to_answer=to_answer)


@given(st.data())
def test_the_order_of_the_results_does_not_matter(data: st.DataObject) -> None:
    ids = st.lists(st.sampled_from("ABCDE"), min_size=1, max_size=5, unique=True)
    rounds = data.draw(st.lists(ids, max_size=4))
    said: list[Any] = [m.user("?")]
    expected = [m.user("?")]
    for calls in rounds:  # ids may come again in the next round
        said += [tuple(calls), *data.draw(st.permutations(calls))]
        expected += [*map(call, calls), *map(result, calls)]

    assert paired(*said) == expected


BETWEEN = m.user("and?")
CASES: dict[str, tuple[tuple[Any, ...], list[m.Message]]] = {
    "text between results": (
        (("A", "B"), "B", BETWEEN, "A", m.answer("ok")),
        [call("A"), call("B"), result("A"), result("B"), BETWEEN, m.answer("ok")],
    ),
    "text before results": (
        (("A", "B"), BETWEEN, "B", "A"),
        [call("A"), call("B"), result("A"), result("B"), BETWEEN],
    ),
    "reasoning between calls": (
        (("A",), m.reasoning("hm"), ("B",), "B", "A"),
        [call("A"), m.reasoning("hm"), call("B"), result("A"), result("B")],
    ),
    "text behind the calls": (
        (("A",), m.preamble("I look."), "A"),
        [call("A"), m.preamble("I look."), result("A")],
    ),
    "a result that comes a round late": (
        (("A", "B"), "A", ("C",), "C", "B"),
        [call("A"), call("B"), result("A"), result("B"), call("C"), result("C")],
    ),
    "a call in the results of another": (
        (("A",), "A", ("A", "A"), "A", "A"),
        [call("A"), result("A"), call("A"), call("A"), result("A"), result("A")],
    ),
    "an interrupted call": (
        (("A", "B"), "A", BETWEEN),
        [call("A"), call("B"), result("A"), NO_RESULT, BETWEEN],
    ),
    "all calls interrupted": (
        (("A",), m.preamble("I look."), BETWEEN),
        [call("A"), NO_RESULT, m.preamble("I look."), BETWEEN],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_results_stand_behind_their_calls(case: str) -> None:
    said, expected = CASES[case]

    assert paired(*said) == expected


@pytest.mark.parametrize(
    ("said", "message", "at"),
    [
        ([("A", "B"), "A"], r"no result of messages\[0\] `B`: send", 0),
        ([("A", "B")], r"of messages\[0\] `A`, messages\[0\] `B`:", 0),
        ([("A",), m.preamble("wait")], r"no result of messages\[0\] `A`", 0),
        ([("A",), "A", "A"], r"messages\[2\] is a second result of call `A`", 2),
        ([("A",), "A", m.answer("ok"), "A"], "second result of call `A`", 3),
        ([("A",), "B", "A"], r"messages\[1\] is the result of no call.*`B`", 1),
        (["A"], "of no call: no call before it has the `call_id` `A`", 0),
        ([("A",), "B\r\nC: d"], r"has the `call_id`$", 1),  # is not repeated
        ([tuple("ABCDEFGHIJ")], r"messages\[0\] `H` and 2 more:", 0),
    ],
)
def test_what_belongs_to_nothing_is_named(
    said: list[Any], message: str, at: int
) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        paired(*said)

    assert caught.value.where == f"messages[{at}]"


def test_without_an_answer_to_come_calls_may_stand_last() -> None:
    assert paired(("A", "B"), "B", to_answer=False) == [
        call("A"),
        call("B"),
        result("B"),
    ]
