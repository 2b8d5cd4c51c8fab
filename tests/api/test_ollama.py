"""Ollama's requests become those of other APIs, or are refused by name."""

import math
from typing import Any

import pytest

from mlx_gptoss.api.errors import ApiError, ollama_body
from mlx_gptoss.api.ollama.durations import read_keep_alive
from mlx_gptoss.api.ollama.request import (
    chat_message,
    context_messages,
    read_chat,
    read_question,
    read_raw,
)
from mlx_gptoss.api.ollama.wire import (
    OllamaChatRequest,
    OllamaGenerateRequest,
    OllamaMessage,
)
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import answering

SETTINGS = ServerSettings(date="2026-11-22")
HI = [{"role": "user", "content": "hi"}]


def chat(**fields: Any) -> Any:
    body = OllamaChatRequest.model_validate({"messages": HI} | fields)
    with answering() as runtime:
        return read_chat(body, runtime, SETTINGS)


def generate(**fields: Any) -> Any:
    body = OllamaGenerateRequest.model_validate({"prompt": "hi"} | fields)
    with answering() as runtime:
        return read_question(body, runtime, SETTINGS)


def raw(**fields: Any) -> Any:
    body = OllamaGenerateRequest.model_validate({"prompt": "hi", "raw": True} | fields)
    with answering() as runtime:
        return read_raw(body, runtime, SETTINGS)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        (0, 0),
        ("0", 0),
        (90, 90),
        (1.5, 1.5),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("300ms", 0.3),
        (" 30s ", 30),
        (-1, math.inf),
        ("-1", math.inf),
        ("-1m", math.inf),
    ],
)
def test_how_long_a_model_is_kept(value: Any, seconds: float | None) -> None:
    assert read_keep_alive(value) == (
        seconds if seconds is None else pytest.approx(seconds)
    )


@pytest.mark.parametrize("value", ["", "soon", "5", "5 m", "m", "1d", True, [], {}])
def test_what_is_no_duration_is_said(value: Any) -> None:
    if value == "5":
        assert read_keep_alive(value) == 5
    else:
        with pytest.raises(ValueError, match='such as "5m"'):
            read_keep_alive(value)


def test_options_and_fields_mean_what_they_mean_elsewhere() -> None:
    options = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "seed": 7,
        "num_predict": 99.0,
        "stop": ["x"],
    }
    request = chat(options=options, think="high", format="json")

    params = request.params
    assert (params.temperature, params.top_p, params.top_k) == (0.5, 0.9, 40)
    assert (params.min_p, params.seed, params.max_tokens) == (0.05, 7, 99)
    assert request.constraints.stop == ("x",)
    assert request.constraints.response_format is not None
    assert "high" in str(request.conversation[0].content)


@pytest.mark.parametrize("limit", [0, -1, -2])
def test_an_answer_without_a_limit(limit: int) -> None:
    assert chat(options={"num_predict": limit}).params.max_tokens is None
    assert raw(options={"num_predict": limit})[0].params.max_tokens is None


def test_thinking_is_switched_or_has_a_level() -> None:
    assert chat(think=False).constraints.max_reasoning_tokens == 0
    for think, effort in (("low", "low"), (True, "medium"), ("max", "high")):
        request = chat(think=think)
        assert request.constraints.max_reasoning_tokens is None
        assert effort in str(request.conversation[0].content)


def test_a_call_and_its_result_go_back_with_their_reasoning() -> None:
    messages = [
        *HI,
        {
            "role": "assistant",
            "content": "",
            "thinking": "I look.",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, "b"]}}}],
        },
        {"role": "tool", "tool_name": "f", "content": "42"},
    ]
    said = [
        (one.role, one.channel, one.text) for one in chat(messages=messages).history
    ]

    assert said[-3:] == [
        ("assistant", "analysis", "I look."),
        ("assistant", "commentary", '{"a":[1,"b"]}'),
        ("tool", "commentary", "42"),
    ]


def test_results_are_paired_by_the_id_or_the_tool() -> None:
    call = {"role": "assistant", "content": ""}
    both = [{"function": {"name": name, "arguments": {}}} for name in ("f", "g")]
    results = [
        {"role": "tool", "tool_name": "g", "content": "of g"},
        {"role": "tool", "tool_name": "f", "content": "of f"},
    ]
    named = chat(messages=[*HI, call | {"tool_calls": both}, *results])
    assert [one.text for one in named.history[-2:]] == ["of f", "of g"]

    numbered = [entry | {"id": id} for entry, id in zip(both, "AB", strict=True)]
    by_id = [{"role": "tool", "tool_call_id": id, "content": f"of {id}"} for id in "BA"]
    found = chat(messages=[*HI, call | {"tool_calls": numbered}, *by_id])
    assert [one.text for one in found.history[-2:]] == ["of A", "of B"]


def test_roles_are_read_in_any_case_and_calls_in_text() -> None:
    message = OllamaMessage.model_validate({"role": "USER", "content": "hi"})
    assert chat_message(message)["role"] == "user"
    call = {"function": {"name": "f", "arguments": '{"a": 1}'}}
    message = OllamaMessage.model_validate({"role": "assistant", "tool_calls": [call]})
    assert chat_message(message)["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'


def test_an_image_is_refused_in_the_newest_question_only() -> None:
    shown = {"role": "user", "content": "look", "images": ["aGk="]}
    with pytest.raises(PromptError, match="`image`: gpt-oss reads text only"):
        chat(messages=[shown])
    earlier = chat(messages=[shown, {"role": "assistant", "content": "no"}, *HI])
    assert "[image, not shown: gpt-oss reads text]" in earlier.history[-3].text
    assert earlier.hidden_parts == ["image"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"images": ["aGk="]}, "`images`: gpt-oss reads text only"),
        ({"suffix": "end"}, "`suffix` is not supported"),
        ({"template": "{{ .Prompt }}"}, "`template` is not supported"),
        ({"context": [10**6]}, "`context` has no ids of this model"),
        ({"context": [1, 2, 3]}, "`context` is not that of an earlier reply"),
        ({"format": "yaml"}, "`format`: give"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(ApiError) as caught:
        generate(**fields)
    assert caught.value.status == 400
    assert said in ollama_body(caught.value)["error"]


@pytest.mark.parametrize(
    "fields", [{"system": "x"}, {"context": [1]}, {"format": "json"}]
)
def test_a_raw_prompt_takes_nothing_that_would_change_it(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(ApiError, match="raw"):
        raw(**fields)


def test_control_tokens_of_a_raw_prompt_are_control_tokens() -> None:
    with answering() as runtime:
        body = OllamaGenerateRequest(prompt="<|start|>user", raw=True)
        [prompt] = read_raw(body, runtime, SETTINGS)
        assert prompt.ids[0] == runtime.tokenizer.special("<|start|>")


def test_a_context_goes_on_as_the_conversation_it_was() -> None:
    first = generate(system="Be brief.")
    with answering() as runtime:
        ids = render_messages(first.conversation, runtime.tokenizer, complete=False)
        system, *_ = first.conversation
        back = [system, *context_messages(ids, runtime)]
        assert render_messages(back, runtime.tokenizer, complete=False) == ids
    again = generate(context=ids, prompt="and now?")
    assert [one.role for one in again.conversation] == [
        "system",
        "developer",
        "user",
        "user",
    ]


def test_options_without_effect_are_named() -> None:
    body = OllamaChatRequest.model_validate(
        {
            "messages": HI,
            "options": {"num_ctx": 4096, "repeat_penalty": 1.2, "presence_penalty": 0},
            "draft": True,
        }
    )
    assert body.ignored_fields == ["draft", "options.num_ctx", "options.repeat_penalty"]
    neutral = {"options": {"repeat_penalty": 1.0, "typical_p": 1.0}}
    assert OllamaChatRequest.model_validate(neutral).ignored_fields == []
