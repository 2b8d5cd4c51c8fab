"""Options of `convert` and `merge` that the chosen output would ignore are refused."""

from pathlib import Path

import pytest

from tests.support.refusals import refusal

ALONE = {
    "--recipe": ["recommended"],
    "--experts": ["dense"],
    "--text": ["text.txt"],
    "--no-kl": [],
    "--tokenizer-pre": ["gpt-4o"],
    "--force": [],
    "--max-memory": ["2GB"],
    "--resume": [],
}


@pytest.mark.parametrize("layout", ["peft", "mlx-lm"])
@pytest.mark.parametrize("option", ALONE)
def test_an_adapter_alone_takes_no_option_of_merging(
    option: str, layout: str, tmp_path: Path
) -> None:
    arguments = ["demo", "adapter", str(tmp_path / "out"), "--to", layout]
    error = refusal("merge", *arguments, option, *ALONE[option])
    assert error == (
        f"Error: {option} does nothing with --to {layout}, which merges nothing: "
        "leave it out"
    )
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("command", ["convert", "merge"])
@pytest.mark.parametrize("to", ["mlx", "hf"])
def test_a_pre_tokenizer_is_for_gguf(command: str, to: str) -> None:
    sources = ["demo"] if command == "convert" else ["demo", "adapter"]
    arguments = [*sources, "out", "--to", to, "--tokenizer-pre", "gpt-4o"]
    expected = "Error: --tokenizer-pre is for --to gguf: leave it out"
    assert refusal(command, *arguments) == expected


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_layout_is_for_mlx_folders(to: str) -> None:
    found = refusal("convert", "demo", "out", "--to", to, "--layout", "split")
    assert found == "Error: --layout is for MLX folders: leave it out, or --to"


def test_no_text_is_given_where_nothing_is_measured(tmp_path: Path) -> None:
    arguments = ["demo", "adapter", str(tmp_path / "out"), "--text", "text.txt"]
    found = refusal("merge", *arguments, "--no-kl")
    assert found == ("Error: --text does nothing with --no-kl: leave one of them out")
