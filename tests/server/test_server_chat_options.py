"""Options of chat completions: stop strings, limits, sampling, log-probabilities."""

import re
from typing import Any

import pytest

from mlx_gptoss import load
from mlx_gptoss.engine.runtime import Runtime
from tests.support.chat_requests import SUM, choice, post, refused
from tests.support.serving import events, question


def test_a_stop_string_ends_the_answer_before_it(demo: Runtime) -> None:
    got = choice(post(demo, question(SUM, stop=[" = ", "never"])))

    assert got["message"]["content"] == "417 + 285"
    assert got["finish_reason"] == "stop"
    assert "=" in got["message"]["reasoning"]


@pytest.mark.parametrize("stop", ["", [""], ["x"] * 17, ["x" * 1025], 3, [3]])
def test_stop_strings_out_of_measure_are_refused(demo: Runtime, stop: Any) -> None:
    assert "stop" in refused(post(demo, question(SUM, stop=stop)))["param"]


def test_the_limit_of_tokens_is_a_length(demo: Runtime) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        reply = post(demo, question(SUM, **{name: 7}))
        assert choice(reply)["finish_reason"] == "length"
        assert reply.json()["usage"]["completion_tokens"] == 7


def test_a_prompt_that_fills_the_context_has_its_own_code() -> None:
    with load("demo", context=64) as runtime:
        error = refused(post(runtime, question("word " * 100)))

    assert error["code"] == "context_length_exceeded"
    found = re.search(
        r"This model's maximum context length is 64 tokens\. However, your messages "
        r"resulted in (\d+) tokens.*reduce the length of the messages",
        error["message"],
    )
    assert found and int(found[1]) > 100


def test_a_seed_repeats_and_each_choice_has_its_own(demo: Runtime) -> None:
    body = question("Hello!", temperature=3.0, seed=7, n=3, max_tokens=12)
    body["max_reasoning_tokens"] = 12
    first, second = (post(demo, body).json() for _ in range(2))

    assert first["choices"] == second["choices"]
    assert [one["index"] for one in first["choices"]] == [0, 1, 2]
    said = [one["message"]["reasoning"] for one in first["choices"]]
    assert len(set(said)) > 1
    alone = post(demo, body | {"n": 1, "seed": 8}).json()["choices"][0]["message"]
    assert alone["reasoning"] == said[1]


def test_several_choices_stream_side_by_side(demo: Runtime) -> None:
    body = question("Hello!", temperature=3.0, seed=7, n=3, max_tokens=12)
    body["max_reasoning_tokens"] = 12
    whole = post(demo, body).json()["choices"]
    options = {"include_usage": True}
    reply = post(demo, body | {"stream": True, "stream_options": options})

    *chunks, last = events(reply.text)
    said = ["", "", ""]
    for one in chunks:
        [part] = one["choices"]
        said[part["index"]] += part["delta"].get("reasoning", "")
    assert said == [one["message"]["reasoning"] for one in whole]
    assert last["usage"]["completion_tokens"] == 36


def test_several_choices_read_their_prompt_once(demo: Runtime) -> None:
    text = "Tell me more. " * 40
    before = demo.batch_statistics
    usage = post(demo, question(text, n=3, max_tokens=2)).json()["usage"]
    after = demo.batch_statistics

    asked_for = after.prompt_tokens - before.prompt_tokens
    cached = after.cached_tokens - before.cached_tokens
    assert asked_for == 3 * usage["prompt_tokens"]
    assert asked_for - cached < usage["prompt_tokens"] * 1.2
    assert usage["completion_tokens"] == 6


def test_a_second_turn_reads_only_what_is_new(demo: Runtime) -> None:
    body = question("Please remember the word bicycle. " * 10)
    first = choice(post(demo, body))["message"]
    body["messages"] += [first, {"role": "user", "content": "And now?"}]
    usage = post(demo, body).json()["usage"]

    assert usage["prompt_tokens_details"]["cached_tokens"] > 100
    unread = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
    assert unread < 100


def test_a_bias_can_forbid_a_token(demo: Runtime) -> None:
    [four] = demo.tokenizer.encode("4")
    body = question(SUM, logit_bias={str(four): -100}, reasoning_effort="none")

    assert "4" not in choice(post(demo, body))["message"]["content"]


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"99999999": 1}},
        {"logit_bias": {"1": 101}},
        {"temperature": -1},
        {"temperature": True},
        {"top_p": 0},
        {"top_p": 1.5},
        {"n": 0},
        {"n": 17},
        {"max_tokens": 0},
        {"seed": 1.5},
        {"top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 21},
        {"reasoning_effort": "extreme"},
        {"stream": "yes"},
        {"messages": []},
        {"messages": [{"role": "wizard", "content": "hi"}]},
        {"tools": [{"type": "function"}]},
        {"tools": [{"type": "function", "function": {"name": ""}}]},
        {"tools": "all"},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_refused(demo: Runtime, fields: Any) -> None:
    assert refused(post(demo, question("hi") | fields))["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_of_the_tokens_of_the_content(demo: Runtime, stream: bool) -> None:
    reply = post(demo, question(SUM, logprobs=True, top_logprobs=2, stream=stream))
    if stream:
        told = [one["choices"][0].get("logprobs") for one in events(reply.text)]
        content = [one for part in told if part for one in part["content"]]
    else:
        content = choice(reply)["logprobs"]["content"]

    assert b"".join(bytes(one["bytes"]) for one in content) == b"417 + 285 = 702"
    for one in content:
        assert one["logprob"] <= 0
        likeliest = one["top_logprobs"]
        assert len(likeliest) == 2
        assert likeliest[0]["token"] == one["token"]  # it is greedy
