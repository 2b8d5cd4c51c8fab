"""Policies of a server: `/v1/moderations`, and guards that refuse in every API."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.server.policies import ServedPolicies
from mlx_gptoss.workloads.classify.policy import Policy, parse_policy
from tests.server.test_server_batches import ended, lines_of
from tests.support import sse
from tests.support.judging import FINE, POLICY, SURENESS, THOUGHT, judging
from tests.support.live import Live, live
from tests.support.serving import DATE

MANNERS = parse_policy(POLICY, "manners")
GRADES = Policy("grades", MANNERS.text, ("0", "1", "2"), frozenset({"1", "2"}))
REFUSED = "refused by this server's policy `manners` (label 1, rule M1.a)"
BAD, GOOD = "This is bad.", "Hello"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("store")
    policies = ServedPolicies(
        {"manners": MANNERS, "grades": GRADES}, guards=("manners",)
    )
    settings = ServerSettings(date=DATE, store=folder)
    with judging() as runtime, live(runtime, settings, policies=policies) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Live) -> Iterator[openai.OpenAI]:
    url = f"{server.url}/v1"
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as made:
        yield made


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def test_moderations_have_the_policies_as_categories(client: openai.OpenAI) -> None:
    found = client.moderations.create(
        input=[BAD, GOOD], extra_body={"include_reasoning": True, "rationale": True}
    )
    first, second = (one.model_dump() for one in found.results)
    assert found.id.startswith("modr-") and found.model == "demo"
    assert (first["flagged"], second["flagged"]) == (True, False)
    assert first["categories"] == {
        **dict.fromkeys(first["categories"]),
        "manners": True,
        "grades": True,
        "grades/1": True,
        "grades/2": False,
    }
    assert first["category_scores"]["manners"] == pytest.approx(SURENESS, abs=1e-6)
    assert second["category_scores"]["manners"] == pytest.approx(1 - SURENESS, abs=1e-6)
    verdict = first["verdicts"]["manners"]
    assert (verdict["label"], verdict["rule"]) == ("1", "M1.a")
    assert (verdict["reasoning"], verdict["rationale"]) == (THOUGHT, "So.")


def test_moderations_take_parts_and_chosen_policies(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "bad"}]
    found = client.moderations.create(
        model="omni-moderation-latest",
        input=parts,
        extra_body={"policies": ["manners"]},
    )
    [result] = found.results
    assert result.flagged
    assert set(result.model_dump(exclude_none=True)["verdicts"]) == {"manners"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"input": []}, "is empty"),
        ({"input": [{"type": "image_url", "image_url": {"url": "x"}}]}, "only text"),
        ({"input": "x", "policies": ["none"]}, "no policy `none`"),
        ({"input": ["x"] * 65}, "input"),
        ({"input": "x", "model": "gpt-9"}, "does not exist"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    server: Live, fields: dict[str, Any], said: str
) -> None:
    reply = httpx2.post(f"{server.url}/v1/moderations", json=fields)
    assert reply.status_code in (400, 404) and said in reply.json()["error"]["message"]


def test_chat_refuses_with_its_refusal_field(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    whole = create(model="demo", messages=said(BAD), n=2)
    for choice in whole.choices:
        assert choice.finish_reason == "content_filter"
        assert choice.message.content is None
        assert REFUSED in (choice.message.refusal or "")
    chunks = list(create(model="demo", messages=said(BAD), stream=True))
    refusals = [one.choices[0].delta.refusal for one in chunks]
    assert REFUSED in "".join(filter(None, refusals))
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    answered = create(model="demo", messages=said(GOOD)).choices[0]
    assert (answered.message.content, answered.finish_reason) == (FINE, "stop")
    assert answered.message.refusal is None


def test_responses_refuse_with_a_refusal_part(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="demo", input=BAD)
    [item] = whole.output
    assert whole.status == "incomplete"
    assert whole.incomplete_details and (
        whole.incomplete_details.reason == "content_filter"
    )
    [part] = item.content  # type: ignore[union-attr]
    assert part.type == "refusal" and REFUSED in part.refusal  # type: ignore[union-attr]
    with client.responses.stream(model="demo", input=BAD) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds.index("response.refusal.delta") < kinds.index("response.refusal.done")
    assert kinds[-1] == "response.incomplete"
    later = client.responses.create(
        model="demo", input=GOOD, previous_response_id=whole.id
    )
    assert later.incomplete_details is not None  # what was refused is still in it


def test_messages_refuse_with_their_stop_reason(server: Live) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="x") as asking:
        fields: Any = {"model": "demo", "max_tokens": 90, "messages": said(BAD)}
        whole = asking.messages.create(**fields)
        with asking.messages.stream(**fields) as stream:
            last = stream.get_final_message()
    for message in (whole, last):
        assert message.stop_reason == "refusal" and message.content == []
        assert message.stop_details and message.stop_details.type == "refusal"
        assert REFUSED in (message.stop_details.explanation or "")


def test_completions_refuse_with_their_finish_reason(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="demo", prompt=[GOOD, BAD], max_tokens=3)
    assert [one.finish_reason for one in whole.choices] == ["content_filter"] * 2
    assert [one.text for one in whole.choices] == ["", ""]
    chunks = list(client.completions.create(model="demo", prompt=BAD, stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"


def test_ollama_says_it_in_the_answer(server: Live) -> None:
    def ask(path: str, **body: Any) -> list[Any]:
        reply = httpx2.post(f"{server.url}/api/{path}", json={"model": "demo"} | body)
        assert reply.status_code == 200, reply.text
        return [json.loads(line) for line in reply.text.splitlines()]

    [chat] = ask("chat", messages=said(BAD), stream=False)
    assert REFUSED in chat["message"]["content"]
    assert chat["done"] and chat["done_reason"] == "content_filter"
    for raw in (False, True):
        lines = ask("generate", prompt=BAD, raw=raw)
        assert REFUSED in "".join(line["response"] for line in lines)
        assert lines[-1]["done_reason"] == "content_filter"
    [answered] = ask("chat", messages=said(GOOD), stream=False)
    assert answered["message"]["content"] == FINE


def test_lm_studio_says_it_in_the_answer(server: Live) -> None:
    body = {"model": "demo", "input": BAD}
    whole = httpx2.post(f"{server.url}/api/v1/chat", json=body)
    streamed = httpx2.post(f"{server.url}/api/v1/chat", json=body | {"stream": True})

    [item] = whole.json()["output"]
    assert item["type"] == "message" and REFUSED in item["content"]
    deltas = [
        event
        for event in sse.objects(streamed.text)
        if event["type"] == "message.delta"
    ]
    assert REFUSED in "".join(event["content"] for event in deltas)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": BAD}, *said(GOOD)],
        [*said(BAD), {"role": "assistant", "content": "So?"}, *said(GOOD)],
        [
            *said(GOOD),
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "look", "arguments": "{}"},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": BAD},
        ],
    ],
    ids=["system", "earlier", "tool"],
)
def test_all_that_comes_in_is_judged(client: openai.OpenAI, messages: Any) -> None:
    reply = client.chat.completions.create(model="demo", messages=messages)
    assert reply.choices[0].finish_reason == "content_filter"


def test_batches_are_judged_row_by_row(client: openai.OpenAI) -> None:
    rows = [
        {
            "custom_id": text,
            "url": "/v1/chat/completions",
            "body": {"model": "demo", "messages": said(text)},
        }
        for text in (GOOD, BAD)
    ]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("in.jsonl", io.BytesIO(data)), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
    )
    lines = lines_of(client, ended(client, made.id).output_file_id)
    reasons = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["finish_reason"]
        for line in lines
    }
    assert reasons == {GOOD: "stop", BAD: "content_filter"}


def test_a_conversation_is_judged_once(server: Live, client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    messages = said("a new question")
    create(model="demo", messages=messages)
    before = server.service.models  # the same runtime counts all requests
    assert before is not None
    counted: list[str] = []
    policies = server.service.policies
    assert policies is not None
    judge = policies.judge

    async def counting(models: Any, texts: Any, *rest: Any, **more: Any) -> Any:
        counted.extend(texts)
        return await judge(models, texts, *rest, **more)

    policies.judge = counting  # type: ignore[method-assign]
    try:
        more: Any = [*messages, {"role": "assistant", "content": FINE}, *said("more")]
        create(model="demo", messages=more)
    finally:
        del policies.judge  # type: ignore[attr-defined]
    assert counted == ["more"]


def test_a_server_without_policies_says_so(tmp_path: Path) -> None:
    with (
        judging() as runtime,
        live(runtime, ServerSettings(date=DATE)) as found,
    ):
        reply = httpx2.post(f"{found.url}/v1/moderations", json={"input": "x"})
    assert reply.status_code == 400 and "--policy" in reply.json()["error"]["message"]
