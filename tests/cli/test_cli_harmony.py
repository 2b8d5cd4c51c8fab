"""`render` shows the exact prompt, `parse` explains a stream; both with the demo."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from tests.harmony.test_harmony_prompts import FOLDER
from tests.support import golden_streams

CONVERSATION = FOLDER / "tool-loop.json"


def run(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(cli, [*arguments, "-m", "demo"], input=text)


def test_render_shows_the_text_of_a_file_or_of_stdin() -> None:
    expected = CONVERSATION.with_suffix(".txt").read_text()

    assert run("render", str(CONVERSATION)).stdout == expected
    assert run("render", text=CONVERSATION.read_text()).stdout == expected


def test_render_shows_the_ids_and_both_as_json() -> None:
    ids = run("render", str(CONVERSATION), "--ids").stdout
    found = json.loads(run("render", str(CONVERSATION), "--json").stdout)

    assert [int(one) for one in ids.split()] == found["ids"]
    assert found["tokens"] == len(found["ids"])
    assert found["text"] + "\n" == CONVERSATION.with_suffix(".txt").read_text()


def test_render_takes_effort_date_and_analysis() -> None:
    options = ["--effort", "high", "--date", "1999-12-31", "--keep-analysis"]
    text = run("render", str(CONVERSATION), *options).stdout

    assert "Reasoning: high" in text and "Current date: 1999-12-31" in text
    assert "Of a finished turn" in text


def test_what_render_wrote_parses_without_repairs() -> None:
    text = run("render", str(CONVERSATION)).stdout
    ids = run("render", str(CONVERSATION), "--ids").stdout
    both = run("render", str(CONVERSATION), "--json").stdout
    reports = [run("parse", text=one).stdout for one in (text, ids, both)]

    assert reports[0] == reports[1] == reports[2]
    assert reports[0].endswith("14 messages, 0 repairs\n")


def test_parse_explains_each_part_of_a_stream() -> None:
    stream = (
        "<|channel|>analysisHm.<|end|><|start|>assistant<|channel|>commentary "
        'to=functions.f<|message|>{"a":1}]<|call|>'
    )

    assert run("parse", text=stream).stdout == PARSED


PARSED = r"""
 0  control      1  "<|channel|>"
 1  header       1  "analysis"
 2  text         3  "Hm."
 5  control      1  "<|end|>"
    -> repair: missing-message: `<|message|>` was put into a header
    -> reasoning: "Hm."
    -> message ended: assistant on analysis
 6  control      1  "<|start|>"
 7  header       1  "assistant"
 8  control      1  "<|channel|>"
 9  header       6  "commentary to=functions.f"
15  control      1  "<|message|>"
    -> call of f begins (call_1)
16  text         6  "{\"a\":1}]"
    -> arguments: "{\"a\":1}]"
22  control      1  "<|call|>"
    -> call of f: {"a":1}
    -> repair: arguments: `]` was dropped
    -> message ended: assistant on commentary to functions.f
23 ids = 6 control + 8 header + 9 text
2 messages, 2 repairs
""".removeprefix("\n")


def test_parse_takes_tools_and_says_what_is_on_offer() -> None:
    stream = "<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    offered = run("parse", "--tool", "f", text=stream).stdout
    other = run("parse", "--tool", "g", "--tool", "python", text=stream).stdout
    none = run("parse", "--no-tools", text=stream).stdout

    assert "-> call of f: {}" in offered
    assert "the tools are: `functions.g`, `python`" in other
    assert "the tools are: none" in none


def test_parse_can_leave_calls_on_analysis_alone() -> None:
    stream = "<|channel|>analysis to=functions.f<|message|>{}<|end|>"

    assert "call of f: {}" in run("parse", text=stream).stdout
    report = run("parse", "--no-calls-on-analysis", text=stream).stdout
    assert "-> reasoning: " in report and "call of" not in report


@pytest.mark.parametrize(
    "path", sorted(golden_streams.FOLDER.glob("*.txt")), ids=lambda path: path.stem
)
def test_parse_accounts_for_every_id_of_a_malformed_stream(path: Path) -> None:
    stream = golden_streams.read(path).stream
    found = json.loads(run("parse", "--json", text=stream).stdout)
    ids = found["ids"]

    assert sum(len(one["ids"]) for one in found["runs"]) == ids.pop("all")
    assert sum(ids.values()) == sum(len(one["ids"]) for one in found["runs"])


@pytest.mark.parametrize(
    ("arguments", "text", "code", "message"),
    [
        (["render"], "[", 1, "this is not JSON"),
        (["render"], '[{"role": "robot"}]', 1, "has role `robot`"),
        (["render", "--ids", "--json"], "[]", 2, "choose one of"),
        (["parse", "--tool", "f", "--no-tools"], "", 2, "choose one of"),
        (["render", "nowhere.json"], None, 2, "nowhere.json"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    arguments: list[str], text: str | None, code: int, message: str
) -> None:
    result = run(*arguments, text=text)

    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_an_empty_stream_is_nothing() -> None:
    assert run("parse", text="").stdout == "0 ids = none\n0 messages, 0 repairs\n"
