"""The tool cases of `agents check --cases`: what they are, and a slice of a run."""

from collections.abc import Sequence

import pytest
from jsonschema import Draft202012Validator

from mlx_gptoss.diagnostics.agents.cases import (
    CONVERSATIONS,
    CaseCall,
    CaseReply,
    CaseResult,
    ToolCase,
    read_cases,
    run_case,
    run_cases,
)
from mlx_gptoss.diagnostics.http_client import HttpClient
from tests.support.serve_process import Served

CASES = read_cases()
# Of the last two the demo model calls another tool, and none.
SLICE = ("get_weather", "play_song", "set_thermostat", "current_user")


def test_there_are_thirty_cases_of_their_own_names() -> None:
    assert len({case.name for case in CASES}) == len(CASES) == 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_arguments_expected_fit_the_first_tool(case: ToolCase) -> None:
    for tool in case.tools:
        Draft202012Validator.check_schema(tool["parameters"])
    schema = case.tools[0]["parameters"]
    assert Draft202012Validator(schema).is_valid(case.arguments)


def test_every_reply_is_well_formed_and_easy_calls_are_made(served: Served) -> None:
    chosen = [case for case in CASES if case.name in SLICE]
    ran = list(run_cases(HttpClient(served.url, served.token), served.model, chosen))
    assert [(one.case.name, one.error) for one in ran if one.error] == []
    assert [one.api for one in ran] == list(CONVERSATIONS) * len(SLICE)
    exact = {one.case.name for one in ran if one.exact}
    assert exact >= {"get_weather", "play_song"}


class Scripted:
    """A conversation with scripted replies."""

    def __init__(self, *replies: CaseReply) -> None:
        self._replies = list(replies)
        self.given: list[str] = []

    def next_reply(self, *, streamed: bool) -> CaseReply:
        return self._replies.pop(0)

    def add_result(self, call: CaseCall, result: str) -> None:
        self.given.append(result)


def judged(*calls: CaseCall, reasoning: str = "So.", then: str = "21.") -> CaseResult:
    replies: Sequence[CaseReply] = [CaseReply(reasoning, "", calls)] if calls else []
    return run_case(CASES[0], "chat", Scripted(*replies, CaseReply("", then, [])))


@pytest.mark.parametrize(
    ("arguments", "fits", "exact"),
    [
        ('{"city":"Oslo"}', True, True),
        ('{"city":"Rome"}', True, False),
        ('{"town":"Oslo"}', False, False),
        ('{"city":', False, False),
    ],
)
def test_a_call_is_counted_by_its_arguments(
    arguments: str, fits: bool, exact: bool
) -> None:
    ran = judged(CaseCall("1", "get_weather", arguments))
    assert (ran.called_tool, ran.fits_schema, ran.exact, ran.error) == (
        True,
        fits,
        exact,
        None,
    )
    assert ran.answer == "21."


def test_a_tool_that_was_not_offered_is_a_fault_of_the_server() -> None:
    assert "was not offered" in str(judged(CaseCall("1", "rm", "{}")).error)


def test_no_reasoning_at_all_is_a_fault_of_the_server() -> None:
    call = CaseCall("1", "get_weather", '{"city":"Oslo"}')
    assert judged(call, reasoning="").error == "no reasoning came in any turn"


@pytest.mark.parametrize(("cut", "answered"), [(False, True), (True, False)])
def test_an_answer_that_was_cut_is_no_answer(cut: bool, answered: bool) -> None:
    talk = Scripted(CaseReply("So.", "It is 2", [], cut=cut))
    assert run_case(CASES[0], "chat", talk).answered is answered
