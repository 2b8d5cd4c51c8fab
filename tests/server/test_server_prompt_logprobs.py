"""Log-probabilities of prompts over HTTP, as evaluation programs ask for them."""

import asyncio
import math
from typing import Any

import httpx2
import mlx.core as mx
import numpy as np
import pytest

from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import asked, events

TEXT = "The weather in Zürich is 晴れ, and 417 + 285 = 702."
TOLERANCE = 1e-4
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}]}


def post(
    runtime: Runtime,
    path: str = COMPLETIONS,
    settings: ServerSettings | None = None,
    **fields: Any,
) -> httpx2.Response:
    async def work() -> httpx2.Response:
        async with asked(runtime, settings) as client:
            body = {"temperature": 0, "max_tokens": 1} | fields
            return await client.post(path, json=body)

    return asyncio.run(work())


def choices(reply: httpx2.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"]


def expected(runtime: Runtime, ids: list[int]) -> np.ndarray:
    """Log-softmax (L - 1, V) before each token but the first."""
    logits = runtime.logits(ids)
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))[:-1]


def test_an_echo_has_the_logprobs_of_one_pass(demo: Runtime) -> None:
    ids = demo.tokenizer.encode(TEXT)
    normal = expected(demo, ids)

    [choice] = choices(post(demo, prompt=TEXT, echo=True, logprobs=2, max_tokens=0))

    told = choice["logprobs"]
    assert choice["text"] == TEXT
    assert choice["finish_reason"] == "length"
    assert len(told["tokens"]) == len(ids)
    assert (told["token_logprobs"][0], told["top_logprobs"][0]) == (None, None)
    own = normal[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(told["token_logprobs"][1:], own, atol=TOLERANCE)
    for top, row in zip(told["top_logprobs"][1:], normal, strict=True):
        best = sorted(row, reverse=True)[:2]
        likeliest = sorted(top.values(), reverse=True)[:2]
        np.testing.assert_allclose(likeliest, best, atol=TOLERANCE)


def test_tokens_and_offsets_make_up_the_text(demo: Runtime) -> None:
    [choice] = choices(post(demo, prompt=TEXT, echo=True, logprobs=0, max_tokens=4))
    told = choice["logprobs"]

    data = b""
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert offset == len(data.decode("utf-8", "ignore"))
        if token in demo.tokenizer.specials:  # it has no text
            continue
        named = token.removeprefix("bytes:") if token.startswith("bytes:\\x") else None
        data += (
            token.encode() if named is None else bytes.fromhex(named.replace("\\x", ""))
        )
    assert data.decode("utf-8", "replace") == choice["text"]
    assert any(token.startswith("bytes:\\x") for token in told["tokens"])
    assert told["top_logprobs"] is None


def test_greedy_continuations_are_found_as_lm_eval_finds_them(demo: Runtime) -> None:
    """The best alternative is the very number of the token, not one close to it."""
    context = demo.tokenizer.encode("The weather in")
    [said] = choices(post(demo, prompt=context, max_tokens=6, logprobs=1))
    continuation = demo.tokenizer.encode(said["text"])

    [choice] = choices(
        post(
            demo,
            prompt=[[*context, *continuation]],
            echo=True,
            logprobs=1,
            max_tokens=1,
        )
    )

    told = choice["logprobs"]
    own = told["token_logprobs"][len(context) : -1]
    best = [max(top.values()) for top in told["top_logprobs"][len(context) : -1]]
    assert own == best
    assert sum(own) == pytest.approx(sum(said["logprobs"]["token_logprobs"]), abs=1e-3)


def test_a_prompt_that_is_cached_has_them_all(demo: Runtime) -> None:
    prompt = "A prompt that is known. " * 20
    first, second = (
        choices(post(demo, prompt=prompt, echo=True, logprobs=1, max_tokens=n))
        for n in (3, 0)
    )
    choices(post(demo, prompt=prompt))
    third = choices(post(demo, prompt=prompt, echo=True, logprobs=1, max_tokens=0))

    for again in (second, third):
        np.testing.assert_allclose(
            again[0]["logprobs"]["token_logprobs"][1:],
            first[0]["logprobs"]["token_logprobs"][1:-3],
            atol=TOLERANCE,
        )


def test_prompts_of_one_request_have_their_own(demo: Runtime) -> None:
    prompts = [demo.tokenizer.encode(text) for text in (TEXT, "One", "Two more " * 40)]

    found = choices(post(demo, prompt=prompts, echo=True, logprobs=0, max_tokens=0))

    for ids, choice in zip(prompts, found, strict=True):
        own = expected(demo, ids)[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(
            choice["logprobs"]["token_logprobs"][1:], own, atol=TOLERANCE
        )


def test_a_stream_has_them_in_its_first_chunk(demo: Runtime) -> None:
    fields = {"prompt": TEXT, "echo": True, "logprobs": 1, "max_tokens": 3}
    [whole] = choices(post(demo, **fields))

    chunks = [
        one["choices"][0] for one in events(post(demo, stream=True, **fields).text)
    ]

    assert chunks[0]["text"] == TEXT
    parts = [one["logprobs"] for one in chunks if one["logprobs"]]
    for name in ("tokens", "text_offset"):
        assert [x for part in parts for x in part[name]] == whole["logprobs"][name]
    told = [x for part in parts for x in part["token_logprobs"]]
    assert told[1:] == pytest.approx(whole["logprobs"]["token_logprobs"][1:], abs=1e-4)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_vllms_field_names_tokens_by_id(demo: Runtime, path: str) -> None:
    if path == COMPLETIONS:
        ids = demo.tokenizer.encode(TEXT)
        reply = post(demo, path, prompt=TEXT, prompt_logprobs=2)
        told = choices(reply)[0]["prompt_logprobs"]
    else:
        ids = post(demo, "/v1/chat/render", **QUESTION).json()["token_ids"]
        reply = post(demo, path, prompt_logprobs=2, n=2, **QUESTION)
        told = reply.json()["prompt_logprobs"]
        assert len(choices(reply)) == 2
    normal = expected(demo, ids)

    assert told[0] is None
    assert len(told) == len(ids)
    for token, entry, row in zip(ids[1:], told[1:], normal, strict=True):
        own = entry[str(token)]
        assert own["logprob"] == pytest.approx(row[token], abs=TOLERANCE)
        assert own["decoded_token"] == demo.tokenizer.token_bytes(token).decode(
            "utf-8", "replace"
        )
        assert next(iter(entry)) == str(token)
        ranks = {one["rank"]: one["logprob"] for one in entry.values()}
        assert {1, 2} <= set(ranks)
        assert ranks[1] == pytest.approx(max(row), abs=TOLERANCE)
        assert len(entry) in (2, 3)


def test_only_what_is_asked_for_is_there(demo: Runtime) -> None:
    plain = post(demo, prompt=TEXT)
    echo = post(demo, prompt=TEXT, echo=True)
    both = post(demo, prompt=TEXT, echo=True, logprobs=0, prompt_logprobs=3)

    assert "prompt_logprobs" not in plain.text + echo.text
    [choice] = choices(both)
    assert len(choice["prompt_logprobs"]) == len(demo.tokenizer.encode(TEXT))
    assert choice["logprobs"]["top_logprobs"] is None
    assert all(math.isfinite(x) for x in choice["logprobs"]["token_logprobs"][1:])


def test_too_many_of_them_are_refused(demo: Runtime) -> None:
    narrow = ServerSettings(limits=RequestLimits(prompt_logprobs=100))

    def status(path: str = COMPLETIONS, **fields: Any) -> int:
        return post(demo, path, narrow, **fields).status_code

    assert status(prompt=[1] * 50, echo=True, logprobs=1) == 200
    assert status(prompt=[1] * 51, echo=True, logprobs=1) == 400
    assert status(prompt=[1] * 26, echo=True, logprobs=1, n=2) == 400
    assert status(prompt=[[1] * 26] * 2, echo=True, logprobs=1) == 400
    assert status(prompt=[1] * 500) == 200
    assert status(CHAT, prompt_logprobs=20, **QUESTION) == 400
