"""Options that would do nothing are refused by name."""

from pathlib import Path

import pytest

from tests.support.refusals import refusal

ONLY_WITHOUT_TUNE = {
    "--context": "4096",
    "--experts": "resident",
    "--prompt": "50",
    "--trace": __file__,
    "--plot": "plan.png",
}


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


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Return a folder with rows to train and to validate on."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("train", "valid"):
        (folder / f"{name}.jsonl").write_text('{"text": "a"}\n')
    return folder


def test_no_share_is_kept_beside_a_file_that_validates(rows: Path) -> None:
    train, valid = (str(rows / f"{name}.jsonl") for name in ("train", "valid"))
    share = ("-m", "demo", "--preview", "--valid-share", "0.1")
    found = refusal("tune", train, "--valid", valid, *share)
    assert found == "Error: --valid-share does nothing with --valid: leave it out"
    found = refusal("tune", str(rows), *share)
    assert found == f"Error: --valid-share does nothing: `{valid}` validates"


@pytest.mark.parametrize(
    "option",
    [
        *(["-o", "out"], ["--resume"], ["--json"], ["--rank", "4"]),
        *(["--dropout", "0.1"], ["--memory", "2GB"], ["--context", "99"]),
    ],
    ids=lambda option: option[0],
)
def test_a_preview_takes_no_option_of_training(rows: Path, option: list[str]) -> None:
    found = refusal("tune", str(rows), "-m", "demo", "--preview", *option)
    assert found == f"Error: {option[0]} does nothing with --preview: leave it out"
