"""`mlx-gptoss batch` as it is typed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.support.echoing import echoing
from tests.workloads.test_batch_run import chat, read_lines, write_lines


def run(*arguments: object, **services: Any) -> Result:
    return CliRunner().invoke(
        cli, ["batch", *map(str, arguments), "-m", "demo"], obj=Services(**services)
    )


def echo(*arguments: object) -> Result:
    return run(*arguments, load=lambda *_, **__: echoing())


def test_a_table_is_answered_and_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,one\n2,two\n")
    asked = (tmp_path / "in.csv", tmp_path / "out.csv", "--prompt", "{text}")
    first = echo(*asked)
    again = echo(*asked, "--json")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert first.exit_code == again.exit_code == 0
    assert first.stdout == "" and "2 rows in" in first.stderr
    assert [row["answer"] for row in rows] == ["one", "two"]
    facts = json.loads(again.stdout)
    assert (facts["total"], facts["before"], facts["failed"]) == (2, 2, 0)


def test_a_row_without_an_answer_is_told_by_the_exit_code(tmp_path: Path) -> None:
    rows = [chat("a", "first"), chat("b", "x", stream=True)]
    source = write_lines(tmp_path / "in.jsonl", rows)
    found = echo(source, tmp_path / "out.jsonl", "--errors", tmp_path / "bad.jsonl")
    assert found.exit_code == 1 and "1 rows have no answer" in found.stderr
    assert [line["custom_id"] for line in read_lines(tmp_path / "bad.jsonl")] == ["b"]


def test_a_dry_run_says_what_is_wrong_and_writes_nothing(tmp_path: Path) -> None:
    rows = [chat("a", "first"), chat("a", "again"), chat("c", "x", max_tokens="x")]
    rows.append(chat("d", "first, and more"))
    source = write_lines(tmp_path / "in.jsonl", rows)
    found = run(source, tmp_path / "out.jsonl", "--dry-run", "--json")
    assert found.exit_code == 0, found.output
    facts = json.loads(found.stdout)
    assert facts["requests"] == {"/v1/chat/completions": 2} and facts["failing"] == 2
    assert facts["new_tokens"] < facts["prompt_tokens"] <= 2 * facts["longest_prompt"]
    assert "earlier line" in facts["problems"][0] and "line 3" in facts["problems"][1]
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl"}
    said = run(source, tmp_path / "out.jsonl", "--dry-run").stdout
    assert "2 requests to /v1/chat/completions" in said and "2 rows cannot" in said


def test_a_prompt_may_be_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("one\n")
    (tmp_path / "prompt.md").write_text("say {text}")
    prompt = f"@{tmp_path / 'prompt.md'}"
    found = echo(tmp_path / "in.txt", tmp_path / "out.jsonl", "--prompt", prompt)
    assert found.exit_code == 0
    assert read_lines(tmp_path / "out.jsonl")[0]["answer"] == "say one"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["in.jsonl", "out.jsonl", "--system", "x"], 2, "--system needs --prompt"),
        (["in.jsonl", "out.csv"], 1, "are no table"),
        (["in.jsonl", "out.jsonl", "--prompt", "{x}"], 1, "would do nothing"),
        (["rows.csv", "out.csv", "--prompt", "{b}"], 1, "the table has `a`"),
        (["rows.csv", "out.csv", "--prompt", "{"], 1, "is no template"),
        (["rows.csv", "out.csv", "--prompt", "@none"], 2, "cannot be read"),
        (["rows.csv", "out.csv"], 1, "give --prompt"),
        (["none.jsonl", "out.jsonl"], 1, "cannot be read"),
        (["rows.csv", "mine.csv", "--prompt", "{a}"], 1, "says what it belongs to"),
        (
            ["rows.csv", "out.csv", "--prompt", "{a}", "--json-schema", "rows.csv"],
            2,
            "is not JSON",
        ),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "in.jsonl", [chat("a", "first")])
    (tmp_path / "rows.csv").write_text("a\n1\n")
    (tmp_path / "mine.csv").write_text("mine")
    found = echo(*arguments)
    assert found.exit_code == code or (code == 1 and found.exception), found.output
    assert said in found.stderr + str(found.exception)
    assert not (tmp_path / "out.jsonl").exists() and not (tmp_path / "out.csv").exists()
    assert (tmp_path / "mine.csv").read_text() == "mine"
