"""Reasoning effort and reasoning budgets in the fields of every server."""

from typing import Any

import pytest

from mlx_gptoss.api.ignored import IGNORED_HEADER, ignored_header
from tests.support.spellings import CHAT, MESSAGES, RESPONSES, TURNS, read


def effort_of(path: str, **fields: Any) -> tuple[str | None, Any]:
    """Return the effort that a request is read as, and its limit of reasoning."""
    request = read(path, **fields)
    if path == CHAT:
        return request.reasoning_effort, request.max_reasoning_tokens
    if path == RESPONSES:
        found = request.reasoning
        return (found and found.effort), (found and found.max_tokens)
    off = request.thinking is not None and request.thinking.type == "disabled"
    effort = request.output_config and request.output_config.effort
    budget = request.thinking and request.thinking.budget_tokens
    own = request.max_reasoning_tokens
    return ("none" if off else effort), (own if budget is None else budget)


OFF: list[dict[str, Any]] = [
    {"reasoning_effort": "none"},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}},
    {"chat_template_kwargs": {"reasoning_effort": "none"}},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"chat_template_kwargs": {"thinking": False}},
    {"enable_thinking": False},
    {"think": False},
    {"thinking": {"type": "disabled"}},
    {"output_config": {"effort": "none"}},
]


@pytest.mark.parametrize("path", TURNS)
def test_reasoning_can_be_turned_off_in_every_spelling(path: str) -> None:
    for fields in OFF:
        assert effort_of(path, **fields) == ("none", None), fields
        assert read(path, **fields).ignored_fields == [], fields


@pytest.mark.parametrize("path", TURNS)
def test_reasoning_is_bounded_in_every_spelling(path: str) -> None:
    for fields in (
        {"max_reasoning_tokens": 7},
        {"thinking_token_budget": 7},
        {"reasoning_budget_tokens": 7},
        {"thinking_budget": 7},
        {"chat_template_kwargs": {"thinking_budget": 7}},
        {"reasoning": {"max_tokens": 7}},
        {"thinking": {"type": "enabled", "budget_tokens": 7}},
    ):
        assert effort_of(path, **fields) == (None, 7), fields
    assert effort_of(path, thinking_token_budget=-1) == (None, None)


@pytest.mark.parametrize("path", TURNS)
def test_every_word_for_an_effort_is_known_to_every_api(path: str) -> None:
    for word in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        for fields in (
            {"reasoning_effort": word},
            {"reasoning": {"effort": word}},
            {"output_config": {"effort": word}},
            {"chat_template_kwargs": {"reasoning_effort": word}},
            {"think": word},
        ):
            assert effort_of(path, **fields) == (word, None)


@pytest.mark.parametrize(
    ("fields", "effort", "named"),
    [
        ({"think": True}, None, {}),
        ({"enable_thinking": True, "reasoning_effort": "low"}, "low", {}),
        ({"think": "low", "enable_thinking": True}, "low", {}),
        ({"reasoning_effort": "xhigh", "reasoning": {"effort": "high"}}, "xhigh", {}),
        (
            {"reasoning_effort": "low", "reasoning": {"effort": "high"}},
            "low",
            {IGNORED_HEADER: "fields=reasoning.effort"},
        ),
        (
            {"think": "high", "chat_template_kwargs": {"reasoning_effort": "low"}},
            "low",
            {IGNORED_HEADER: "fields=think"},
        ),
        (
            {"reasoning_effort": "high", "enable_thinking": False},
            "high",
            {IGNORED_HEADER: "fields=enable_thinking"},
        ),
        (
            {"reasoning_effort": "none", "think": True},
            "none",
            {IGNORED_HEADER: "fields=think"},
        ),
        (
            {"reasoning": {"summary": "auto", "x": 1}},
            None,
            {IGNORED_HEADER: "fields=reasoning.summary; unknown=1"},
        ),
        (
            {"chat_template_kwargs": {"model_identity": "Hal", "x\r\ny": 1}},
            None,
            {IGNORED_HEADER: "fields=chat_template_kwargs.model_identity; unknown=1"},
        ),
    ],
    ids=str,
)
def test_the_apis_own_word_goes_first_and_what_it_overrules_is_named(
    fields: dict[str, Any], effort: str | None, named: dict[str, str]
) -> None:
    assert effort_of(CHAT, **fields)[0] == effort
    assert ignored_header(read(CHAT, **fields).ignored_fields) == named


@pytest.mark.parametrize(
    ("fields", "effort", "named"),
    [
        (
            {"thinking": {"type": "disabled"}, "reasoning_effort": "high"},
            "none",
            ["reasoning_effort"],
        ),
        (
            {"thinking": {"type": "disabled"}, "output_config": {"effort": "max"}},
            "none",
            ["output_config.effort"],
        ),
        (
            {"thinking": {"type": "disabled"}, "enable_thinking": True},
            "none",
            ["enable_thinking"],
        ),
        ({"thinking": {"type": "adaptive"}, "think": False}, None, ["think"]),
        ({"thinking": {"type": "enabled"}, "think": "low"}, "low", []),
        ({"thinking": {"type": "disabled"}, "think": False}, "none", []),
    ],
    ids=str,
)
def test_what_messages_says_of_thinking_goes_before_all_else(
    fields: dict[str, Any], effort: str | None, named: list[str]
) -> None:
    request = read(MESSAGES, **fields)

    assert (effort_of(MESSAGES, **fields)[0], request.ignored_fields) == (effort, named)
    assert request.thinking.type == fields["thinking"]["type"]


def test_budgets_of_messages_that_disagree_are_named() -> None:
    thinking = {"type": "enabled", "budget_tokens": 50}
    request = read(MESSAGES, thinking=thinking, max_reasoning_tokens=10)

    assert (request.thinking.budget_tokens, request.ignored_fields) == (
        50,
        ["max_reasoning_tokens"],
    )
    assert effort_of(MESSAGES, thinking=thinking, max_reasoning_tokens=10)[1] == 50
