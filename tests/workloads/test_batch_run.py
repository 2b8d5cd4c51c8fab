"""A whole batch: answered together, written in order, gone on with after a stop."""

import asyncio
import csv
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import BatchError, StorageError
from mlx_gptoss.workloads.batch import BatchJob, Template, run_batch
from mlx_gptoss.workloads.batch.pool import AHEAD, work_through
from mlx_gptoss.workloads.batch.run import BatchProgress
from tests.support.echoing import LONG, calling, echoing
from tests.support.full_disks import limit_of

CHAT_URL, RAW_URL = "/v1/chat/completions", "/v1/completions"
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}


def chat(custom_id: str, text: str, **fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 400}
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": CHAT_URL,
        "body": body | fields,
    }


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(line: dict[str, Any]) -> str:
    return line["response"]["body"]["choices"][0]["message"]["content"]


def undated(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line without what may differ between runs."""
    body = dict(line["response"]["body"])
    del body["created"]
    body["usage"] = {
        name: count for name, count in body["usage"].items() if "details" not in name
    }
    return line | {"response": line["response"] | {"body": body}}


@pytest.mark.parametrize("in_order", [True, False])
def test_every_request_is_answered_once(tmp_path: Path, in_order: bool) -> None:
    texts = [LONG[:80] if n % 5 == 0 else f"number {n}" for n in range(40)]
    rows = [chat(f"id{n}", text) for n, text in enumerate(texts)]
    source, output = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with echoing() as runtime:
        summary = run_batch(runtime, source, output, in_order=in_order, parallel=4)

    found = read_lines(output)
    ids = [line["custom_id"] for line in found]
    assert (ids == [f"id{n}" for n in range(40)]) is in_order
    assert {line["custom_id"]: content(line) for line in found} == {
        f"id{n}": text for n, text in enumerate(texts)
    }
    assert (summary.done, summary.failed, summary.before) == (40, 0, 0)
    assert not summary.errors.exists()
    assert {line["response"]["status_code"] for line in found} == {200}


def test_each_route_answers_in_its_own_form(tmp_path: Path) -> None:
    rows = [
        chat("chat", "first"),
        {"custom_id": "r", "url": "/v1/responses", "body": {"input": "second"}},
        {"custom_id": "raw", "url": RAW_URL, "body": {"prompt": "x", "max_tokens": 3}},
        {
            "custom_id": "stored",
            "url": "/v1/responses",
            "body": {"input": "x", "previous_response_id": "resp_1"},
        },
    ]
    source, output = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with echoing() as runtime:
        summary = run_batch(runtime, source, output)
    replies = [line["response"]["body"] for line in read_lines(output)]
    kinds = [reply["object"] for reply in replies]
    assert kinds == ["chat.completion", "response", "text_completion"]
    [message] = replies[1]["output"]
    assert message["content"][0]["text"] == "second" and replies[1]["store"] is False
    assert replies[1]["status"] == "completed" and replies[1]["id"].startswith("resp_")
    [error] = read_lines(summary.errors)
    assert "stores no responses" in error["response"]["body"]["error"]["message"]


def test_bad_rows_go_to_their_own_file_and_stop_nothing(tmp_path: Path) -> None:
    rows = [
        chat("a", "first"),
        chat("b", "x", max_tokens="many"),
        chat("c", "x", stream=True),
        chat("a", "again"),
        {"custom_id": "d", "url": "/v1/embeddings", "body": {}},
        chat("e", "last", messages=[]),
        chat("f", "last"),
    ]
    source, output = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with echoing() as runtime:
        summary = run_batch(runtime, source, output)

    assert [content(line) for line in read_lines(output)] == ["first", "last"]
    errors = read_lines(summary.errors)
    assert summary.failed == len(errors) == 5
    assert [(line["custom_id"], bool(line["response"])) for line in errors] == [
        ("b", True),
        ("c", True),
        ("a", False),
        ("d", False),
        ("e", True),
    ]
    assert errors[0]["response"]["status_code"] == 400
    assert "max_tokens" in errors[0]["response"]["body"]["error"]["message"]
    assert "earlier line" in errors[2]["error"]["message"]


def test_a_batch_goes_on_where_it_was(tmp_path: Path) -> None:
    """Whatever part is done, the whole equals an undisturbed run."""
    rows = [
        *(chat(f"id{n}", f"number {n}", n=1 + n % 2) for n in range(11)),
        chat("call", calling("look"), tools=[TOOL]),
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    with echoing() as runtime:
        run_batch(runtime, source, whole)
        for most in (3, 0, 5, 100):
            assert stopped_after(runtime, source, parts, most) == (most == 100)
        again = run_batch(runtime, source, parts)

    assert again.before == again.done == 12
    assert [undated(line) for line in read_lines(parts)] == [
        undated(line) for line in read_lines(whole)
    ]
    ids = [line["response"]["body"]["id"] for line in read_lines(whole)]
    assert len(set(ids)) == 12 and all(one.startswith("chatcmpl-") for one in ids)
    [call] = read_lines(whole)[-1]["response"]["body"]["choices"][0]["message"][
        "tool_calls"
    ]
    assert call["id"].startswith("call_")


class Stopped(Exception):
    pass


def stopped_after(runtime: Runtime, source: Path, output: Path, most: int) -> bool:
    """Run until `most` rows have ended here; return whether it came to the end."""

    def report(progress: BatchProgress) -> None:
        if progress.done - progress.before > most:
            raise Stopped

    try:
        run_batch(runtime, source, output, report=report, parallel=3)
    except Stopped:
        return False
    return True


def test_other_options_are_other_work(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [chat("a", "first")])
    output = tmp_path / "out.jsonl"
    cold = ServerSettings(sampling=SamplingParams(temperature=0))
    with echoing() as runtime:
        run_batch(runtime, source, output)
        with pytest.raises(BatchError, match="differs in: options"):
            run_batch(runtime, source, output, settings=cold)
        write_lines(source, [chat("a", "second")])
        with pytest.raises(BatchError, match="differs in: input"):
            run_batch(runtime, source, output)
    assert content(read_lines(output)[0]) == "first"


def test_answers_become_columns(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('id,text\n1,"a, ""b"""\n2,c\n')
    with echoing() as runtime:
        run_batch(
            runtime,
            tmp_path / "in.csv",
            tmp_path / "out.csv",
            template=Template("say {text}"),
        )
        run_batch(
            runtime,
            tmp_path / "in.csv",
            tmp_path / "out.jsonl",
            template=Template("{text}"),
        )
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "id": "1",
        "text": 'a, "b"',
        "answer": 'say a, "b"',
        "finish_reason": "stop",
    }
    assert read_lines(tmp_path / "out.jsonl")[1] == {
        "id": "2",
        "text": "c",
        "answer": "c",
        "finish_reason": "stop",
    }


def test_a_schema_makes_columns_and_a_cut_answer_is_an_error(tmp_path: Path) -> None:
    rows = [
        {"text": '{"sum": 3}', "sum": "?"},
        {"text": '{"sum": 12345678901234567890}'},
    ]
    source = write_lines(tmp_path / "in.jsonl", rows)
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer"}},
        "required": ["sum"],
    }
    template = Template("{text}", schema=schema, fields={"max_tokens": 20})
    with echoing() as runtime:
        summary = run_batch(runtime, source, tmp_path / "out.jsonl", template=template)
    [line] = read_lines(tmp_path / "out.jsonl")
    assert line["sum"] == "?" and line["sum_answer"] == 3
    [error] = read_lines(summary.errors)
    assert error["row"] == "line 2" and "cut off" in error["error"]


def test_a_full_disk_ends_it_and_loses_nothing(tmp_path: Path) -> None:
    rows = [chat(f"id{n}", f"number {n}") for n in range(30)]
    source, output = write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with echoing() as runtime:
        with (
            limit_of(os.getpid(), 4000),
            pytest.raises(StorageError, match=r"out.jsonl"),
        ):
            run_batch(runtime, source, output)
        summary = run_batch(runtime, source, output)
    assert 0 < summary.before < 30
    assert [content(line) for line in read_lines(output)] == [
        f"number {n}" for n in range(30)
    ]


def test_items_do_not_pile_up_behind_a_slow_one() -> None:
    taken = ended = 0

    def items() -> Iterable[int]:
        nonlocal taken
        while taken < 999:
            taken += 1
            yield taken

    async def work(item: int) -> int:
        nonlocal ended
        await asyncio.sleep(0.2 if item == 1 else 0)
        ended += item != 1
        return item

    async def run() -> None:
        results = work_through(iter(items()), work, parallel=4, in_order=True)
        assert await anext(results) == 1
        assert taken <= 4 * AHEAD + 1 and ended <= 4 * AHEAD
        assert [one async for one in results] == list(range(2, 1000))

    asyncio.run(run())


def test_progress_counts_and_estimates() -> None:
    progress = BatchProgress(total=100, before=20, done=20)
    assert progress.seconds_left is None
    progress.done, progress.began = 60, time.monotonic() - 10
    assert progress.seconds_left == pytest.approx(10, rel=0.05)


def test_a_job_refuses_its_own_input_as_output(tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [chat("a", "first")])
    with pytest.raises(BatchError, match="named twice"):
        BatchJob(source=source, output=source).open_input()
    with pytest.raises(BatchError, match="no table"):
        BatchJob(source=source, output=tmp_path / "out.csv").open_input()
