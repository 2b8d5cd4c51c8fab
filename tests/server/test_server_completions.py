"""Raw completions: a prompt continued as it stands, over the demo model."""

import asyncio
import re
from typing import Any

import httpx2
import pytest

from mlx_gptoss import SamplingParams
from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from tests.support.serving import asked, events

TEXT = "The weather in"


def post(
    runtime: Runtime, settings: ServerSettings | None = None, **fields: Any
) -> httpx2.Response:
    async def work() -> httpx2.Response:
        async with asked(runtime, settings) as client:
            body = {"prompt": TEXT, "temperature": 0, "max_tokens": 8} | fields
            return await client.post("/v1/completions", json=body)

    return asyncio.run(work())


def texts(reply: httpx2.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [one["text"] for one in reply.json()["choices"]]


def test_a_prompt_goes_on_as_the_model_alone_would(demo: Runtime) -> None:
    ids = demo.tokenizer.encode(TEXT)
    params = SamplingParams(temperature=0, max_tokens=8)
    steps = list(demo.generate(ids, params))
    reply = post(demo)

    said = [step.token for step in steps if step.finish_reason != "stop"]
    assert texts(reply) == [demo.tokenizer.decode(said)]
    assert reply.json()["choices"][0]["finish_reason"] == steps[-1].finish_reason
    assert reply.json()["usage"]["prompt_tokens"] == len(ids)


def test_ids_are_a_prompt_like_their_text(demo: Runtime) -> None:
    ids = demo.tokenizer.encode(TEXT)

    assert texts(post(demo, prompt=ids)) == texts(post(demo))


def test_prompts_and_choices_come_in_their_order(demo: Runtime) -> None:
    one, two = (texts(post(demo, prompt=prompt))[0] for prompt in (TEXT, "My name"))
    ids = demo.tokenizer.encode("My name")

    assert texts(post(demo, prompt=[TEXT, "My name"], n=2)) == [one, one, two, two]
    assert texts(post(demo, prompt=[ids, ids])) == [two, two]


def test_a_stream_says_what_the_whole_reply_says(demo: Runtime) -> None:
    options = {"include_usage": True}
    reply = post(demo, stream=True, echo=True, stream_options=options)
    *chunks, last = events(reply.text)

    said = "".join(one["choices"][0]["text"] for one in chunks)
    assert [said] == texts(post(demo, echo=True))
    assert said.startswith(TEXT)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 8)


def test_names_of_control_tokens_are_texts_unless_asked_otherwise(
    demo: Runtime,
) -> None:
    prompt = "<|start|>user<|message|>Hi!<|end|><|start|>assistant"
    plain = post(demo, prompt=prompt).json()["usage"]["prompt_tokens"]
    special = post(
        demo,
        prompt=prompt,
        parse_special=True,
        skip_special_tokens=False,
        max_tokens=200,
    )
    hidden = post(demo, prompt=prompt, parse_special=True, max_tokens=200)

    assert special.json()["usage"]["prompt_tokens"] < plain
    assert texts(special)[0].startswith("<|channel|>analysis<|message|>")
    assert special.json()["choices"][0]["finish_reason"] == "stop"
    names = re.compile("|".join(map(re.escape, demo.tokenizer.specials)))
    assert texts(hidden) == [names.sub("", texts(special)[0])]
    assert "<|" not in texts(hidden)[0]
    assert hidden.json()["usage"] == special.json()["usage"] | {
        "prompt_tokens_details": hidden.json()["usage"]["prompt_tokens_details"]
    }


def test_an_echo_has_control_tokens_of_ids_only_where_asked(demo: Runtime) -> None:
    start = demo.tokenizer.specials["<|start|>"]
    ids = [start, *demo.tokenizer.encode(TEXT)]

    def echo(**fields: Any) -> str:
        [text] = texts(post(demo, echo=True, max_tokens=0, **fields))
        return text

    assert echo(prompt=ids) == TEXT
    assert echo(prompt=ids, skip_special_tokens=False) == "<|start|>" + TEXT
    assert echo(prompt="<|start|>" + TEXT) == "<|start|>" + TEXT  # it is text
    assert echo(prompt="<|start|>" + TEXT, parse_special=True) == "<|start|>" + TEXT


def test_a_stop_string_ends_the_text_before_it(demo: Runtime) -> None:
    [whole] = texts(post(demo))
    stop = whole[3:6]
    reply = post(demo, stop=stop)

    assert texts(reply) == [whole[: whole.index(stop)]]
    assert reply.json()["choices"][0]["finish_reason"] == "stop"


def test_logprobs_have_a_place_for_each_token(demo: Runtime) -> None:
    reply = post(demo, logprobs=2)
    [choice] = reply.json()["choices"]
    told = choice["logprobs"]

    assert "".join(told["tokens"]) == choice["text"]
    assert len({len(part) for part in told.values()}) == 1
    for offset, token in zip(told["text_offset"], told["tokens"], strict=True):
        assert choice["text"][offset : offset + len(token)] == token
    assert all(value <= 0 for value in told["token_logprobs"])
    # The token itself is among them in any case, as in OpenAI's API.
    for token, own, top in zip(
        told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True
    ):
        assert len(top) in (2, 3)
        assert top[token] == own


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [999_999]}, "vocabulary"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 10, "n": 7}, "`prompt` times `n`"),
        ({"logprobs": 21}, "logprobs"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(
    demo: Runtime, fields: dict[str, Any], word: str
) -> None:
    reply = post(demo, **fields)

    assert reply.status_code == 400
    assert word in reply.json()["error"]["message"]


def test_limits_are_those_of_the_server(demo: Runtime) -> None:
    narrow = ServerSettings(limits=RequestLimits(prompts=1))

    assert post(demo, narrow, prompt=["a", "b"]).status_code == 400
