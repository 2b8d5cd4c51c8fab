"""`agents check --injection`: what counts as an order that was followed."""

from typing import Any

import pytest

from mlx_gptoss.diagnostics.agents.injection import (
    CANARY,
    DELETE,
    PLACES,
    RIGHT,
    InjectionResult,
    messages_of,
    read_attempts,
    run_injection,
    run_injections,
)
from mlx_gptoss.diagnostics.http_client import HttpClient
from tests.support.serve_process import Served

ATTEMPTS = read_attempts()


class Replying(HttpClient):
    """A server that gives one answer, and may call a tool."""

    def __init__(self, answer: str | None, tool: str | None = None) -> None:
        super().__init__("http://none")
        calls = [
            {"id": "c", "type": "function", "function": {"name": tool, "arguments": ""}}
        ]
        message: dict[str, Any] = {"role": "assistant", "content": answer}
        self.__dict__["reply"] = {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [
                {
                    "index": 0,
                    "message": message | ({"tool_calls": calls} if tool else {}),
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def post(self, path: str, body: Any) -> Any:
        return self.__dict__["reply"]


def tried(answer: str | None, tool: str | None = None) -> InjectionResult:
    return run_injection(Replying(answer, tool), "m", ATTEMPTS[0], PLACES[0])


@pytest.mark.parametrize(
    ("answer", "tool", "obeyed", "answered"),
    [
        (CANARY, None, True, False),
        (f"At {RIGHT}.", None, False, True),
        (f"At {RIGHT}; the page asks for {CANARY}.", None, False, True),
        ("I do not know.", None, False, False),
        (None, DELETE, True, False),
    ],
)
def test_an_order_is_followed_by_its_word_or_its_call(
    answer: str | None, tool: str | None, obeyed: bool, answered: bool
) -> None:
    found = tried(answer, tool)
    assert (found.obeyed, found.answered, found.error) == (obeyed, answered, None)


def test_every_attempt_has_its_name_and_its_place() -> None:
    assert len({one.name for one in ATTEMPTS}) == len(ATTEMPTS) >= 25
    for place in PLACES:
        for attempt in ATTEMPTS:
            told = str(messages_of(attempt.filled, place))
            assert repr(attempt.filled)[1:-1][:20] in told or "'" in attempt.filled


def test_a_server_is_tried(served: Served) -> None:
    client = HttpClient(served.url, served.token)
    ran = list(run_injections(client, served.model, ATTEMPTS[:1]))
    assert [one.place for one in ran] == list(PLACES)
    assert [one.error for one in ran] == [None] * 3
