"""`mlx-gptoss tune report`: a model with and without the adapter of a run."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.harmony.messages import ToolDescription
from mlx_gptoss.workloads.tune.call_checks import judge_calls, read_calls
from mlx_gptoss.workloads.tune.report import choose_turn, learned_turns, spread
from mlx_gptoss.workloads.tune.run_log import read_log
from tests.support.checkpoints import write_checkpoint
from tests.support.fakes import byte_tokenizer, token_ids, write_tokenizer

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = (ToolDescription("weather", parameters=CITY),)
CALL = (
    "<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"
    "{arguments}<|call|>"
)
BYTES = byte_tokenizer()


def answer(name: str = "weather", arguments: str = '{"city": "Rome"}') -> list[int]:
    return token_ids(CALL.format(name=name, arguments=arguments), BYTES)


def test_a_report_compares_before_and_after(tmp_path: Path) -> None:
    model, data, folder = (tmp_path / name for name in ("model", "a.jsonl", "mine"))
    write_checkpoint(model, num_hidden_layers=1)
    write_tokenizer(model)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"{n}."},
            ]
        }
        for n in range(12)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(cli, ["tune", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.stdout

    quick = ("--steps", 3, "--batch-tokens", 400, "--length", 400, "--rank", 2)
    options = ("--learning-rate", 0.02, "--valid-share", 0.2)
    run(data, "-m", model, "-o", folder, *quick, *options)
    limits = ("--answers", 1, "--max-tokens", 2)
    found = json.loads(run("report", folder, "--json", *limits))

    log = read_log(folder)
    assert found["before"]["loss"] == pytest.approx(log[0]["validation_loss"], rel=1e-4)
    best = min(line["validation_loss"] for line in log if line.get("best"))
    assert found["after"]["loss"] == pytest.approx(best, rel=1e-4)
    assert found["after"]["loss"] != pytest.approx(found["before"]["loss"], rel=1e-6)
    assert found["documents"] == 2 and len(found["answers"]) == 1
    assert found["calls"]["expected"] == 0
    text = run("report", folder, *limits)
    assert "perplexity" in text and "  expected: " in text and "  after: " in text


def test_a_folder_without_a_run_has_no_report(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["tune", "report", str(tmp_path)])
    assert done.exit_code == 1 and "has no run of `mlx-gptoss tune`" in done.stderr


@pytest.mark.parametrize(
    ("ids", "valid", "same"),
    [
        (answer(), True, True),
        (answer(arguments='{"city": "Oslo"}'), True, False),
        (answer(arguments='{"city": 7}'), False, False),
        (answer(arguments='{"city": '), False, False),
        (answer(name="whether"), False, False),
        (token_ids("<|channel|>final<|message|>Rome<|return|>", BYTES), False, False),
    ],
    ids=["right", "other", "wrong kind", "no JSON", "no such tool", "no call"],
)
def test_calls_are_judged(ids: list[int], valid: bool, same: bool) -> None:
    found = judge_calls(BYTES, ids, TOOLS, read_calls(BYTES, answer()))
    assert (found.valid, found.same) == (valid, same)


def test_the_first_turn_with_a_call_is_answered_else_the_last() -> None:
    ids = np.arange(10)
    learned = np.isin(ids, (2, 3, 6, 9))
    turns = learned_turns(ids, learned)
    assert turns == [([0, 1], [2, 3]), ([0, 1, 2, 3, 4, 5], [6]), (list(range(9)), [9])]
    assert choose_turn(BYTES, turns) == turns[-1]
    calling = ([1], answer())
    assert choose_turn(BYTES, [turns[0], calling, turns[2]]) == calling


def test_documents_are_spread_evenly() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(2, 5) == [0, 1]
    assert spread(5, 0) == []
