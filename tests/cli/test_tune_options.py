"""The options of training examples, and the preview, on a command of their own."""

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.cli.tune.corpus_options import (
    open_corpus,
    show_preview,
    takes_corpus_settings,
)
from mlx_gptoss.workloads.tune.settings import CorpusSettings

PACKAGE = Path(__file__).parents[2] / "mlx_gptoss"
DEMO = PACKAGE / "demo"
README = PACKAGE / "workloads" / "tune" / "README.md"


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--colour", is_flag=True)
@takes_corpus_settings
def preview(
    data: Path, colour: bool, settings: CorpusSettings, valid: Path | None
) -> None:
    tokenizer = Tokenizer.open(DEMO)
    corpus = open_corpus(data, tokenizer, settings, valid)
    click.echo(repr(settings), err=True)
    show_preview(corpus, tokenizer, coloured=colour)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    messages = [
        {"role": "user", "content": "What is 417 + 285?"},
        {"role": "assistant", "thinking": "Add.", "content": "417 + 285 = 702"},
    ]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    return path


def test_a_preview_marks_what_is_learned_and_counts_it(data: Path) -> None:
    shown = CliRunner().invoke(preview, [str(data), "--effort", "low"])

    assert shown.exit_code == 0, shown.output
    assert (
        "<|start|>user<|message|>What is 417 + 285?<|end|><|start|>assistant"
        "[[<|channel|>analysis<|message|>Add.<|end|><|start|>assistant"
        "<|channel|>final<|message|>417 + 285 = 702<|return|>]]\n"
    ) in shown.stdout
    assert "Reasoning: low" in shown.stdout
    assert f"{data}:1: " in shown.stdout
    assert shown.stdout.splitlines()[-3].split() == [
        "documents",
        "learned",
        "tokens",
        "tokens",
        "longest",
    ]


def test_the_preview_is_the_one_in_the_readme(tmp_path: Path) -> None:
    text = README.read_text()
    row, shown = (
        text.partition(f"```{kind}\n")[2].partition("```")[0]
        for kind in ("json", "text")
    )
    path = tmp_path / "a.jsonl"
    path.write_text(row)

    assert shown in CliRunner().invoke(preview, [str(path)]).stdout


def test_a_coloured_preview_has_no_brackets(data: Path) -> None:
    shown = CliRunner().invoke(preview, [str(data), "--colour"], color=True)

    assert "[[" not in shown.stdout
    assert "<|end|><|start|>assistant\x1b[32m<|channel|>analysis" in shown.stdout
    assert "702<|return|>\x1b[0m\n" in shown.stdout


def test_options_become_settings(data: Path) -> None:
    options = [
        *("--train-on", "final, analysis", "--length", "99", "--too-long", "cut"),
        *("--date", "2026-11-22", "--valid-share", "0", "--pairs", "chat"),
        *("--recipient-in", "channel"),
    ]
    shown = CliRunner().invoke(preview, [str(data), *options])
    settings = CorpusSettings(
        length=99,
        too_long="cut",
        train_on=("final", "analysis"),
        date="2026-11-22",
        pairs="chat",
        recipient_in="channel",
        valid_share=0.0,
    )

    assert repr(settings) in shown.stderr


def test_an_unknown_kind_is_refused(data: Path) -> None:
    shown = CliRunner().invoke(preview, [str(data), "--train-on", "final,thoughts"])

    assert shown.exit_code == 1
    assert "`thoughts` cannot be learned" in str(shown.exception)
