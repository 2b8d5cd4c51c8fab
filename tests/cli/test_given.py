"""Options that would do nothing are refused by name."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli

ONLY_WITHOUT_TUNE = {
    "--context": "4096",
    "--experts": "resident",
    "--prompt": "50",
    "--trace": __file__,
    "--plot": "plan.png",
}


def refusal(*arguments: str) -> str:
    """Return the error of a command that must not have begun."""
    found = CliRunner().invoke(cli, arguments)
    assert found.exit_code == 2, found.output
    return found.stderr.splitlines()[-1]


@pytest.mark.parametrize("option", ONLY_WITHOUT_TUNE)
def test_a_plan_of_training_takes_no_option_of_generating(option: str) -> None:
    found = refusal("plan", "demo", "--tune", option, ONLY_WITHOUT_TUNE[option])
    assert found == f"Error: {option} does nothing with --tune: leave it out"


@pytest.mark.parametrize("option", ["--batch-tokens", "--rank"])
def test_a_plan_of_generating_takes_no_option_of_training(option: str) -> None:
    found = refusal("plan", "demo", option, "16")
    assert found == f"Error: {option} is for --tune: leave it out"


def test_steps_and_epochs_are_not_given_together(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "a"}\n')
    found = refusal(
        *("tune", str(data), "-m", "demo", "-o", str(tmp_path / "out")),
        *("--steps", "3", "--epochs", "2"),
    )
    assert found == "Error: --epochs and --steps both say how long: give one"
    assert not (tmp_path / "out").exists()


def test_a_raw_prompt_takes_no_option_of_harmony() -> None:
    found = refusal("generate", "-m", "demo", "--raw", "a", "--effort", "high")
    assert found == "Error: --effort needs Harmony: leave out --raw"
