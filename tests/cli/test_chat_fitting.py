"""`chat` of a model that does not fit: a plan, and commands that do work."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.forecast import forecast, model_from_shape
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.memory import describe_device
from mlx_gptoss.memory.published_models import find_published_model

COMMAND = re.compile(r"^  (mlx-gptoss .+)$", re.MULTILINE)


class EmptyHub(Hub):
    """Nothing was downloaded."""

    def cached(self, model: str) -> Path | None:
        return None


def chat(device: str, *arguments: str) -> Result:
    def load(model: str, **options: Any) -> None:
        raise AssertionError("a model was loaded")

    services = Services(
        load=load, device=lambda: describe_device(device), hub=EmptyHub()
    )
    words = ["chat", "--private", *arguments]
    return CliRunner().invoke(cli, words, obj=services, input="hi\n")


@pytest.mark.parametrize(
    ("device", "arguments"),
    [
        ("M1 8GB", ("-m", "openai/gpt-oss-20b")),
        ("M1 8GB", ("-m", "openai/gpt-oss-120b")),
        ("M2 16GB", ("-m", "openai/gpt-oss-20b", "--experts", "resident")),
        ("M2 16GB", ("-m", "openai/gpt-oss-20b", "--memory", "4GB")),
        ("M3 24GB", ("-m", "openai/gpt-oss-120b", "--experts", "resident")),
    ],
)
def test_what_does_not_fit_gets_a_plan_and_commands_that_fit(
    device: str, arguments: tuple[str, ...]
) -> None:
    result = chat(device, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: `{arguments[1]}` needs ")
    assert "The plan:\n" in result.stderr and "  in all " in result.stderr
    *offered, demo = COMMAND.findall(result.stderr)
    assert demo == "mlx-gptoss chat -m demo"
    assert offered
    machine, budget = describe_device(device)
    for command in offered:
        chats = command.rpartition("&& ")[2]
        options = dict(zip(*[iter(shlex.split(chats)[2:])] * 2, strict=True))
        shape = find_published_model(options["-m"])
        assert shape is not None
        context = options.get("--context")
        forecast(  # raises if it does not fit
            model_from_shape(shape, options["-m"]),
            LoadOptions(
                memory=options.get("--memory"),
                context=int(context) if context else None,
            ),
            budget,
            machine,
        )


def test_nothing_is_said_of_what_fits() -> None:
    result = chat("M4 Max 64GB", "-m", "openai/gpt-oss-20b", "--offline")
    assert result.exit_code == 1
    assert "What works" not in result.stderr  # only that it is not here
    assert result.stderr.count("\n") == 1


def test_a_model_on_this_machine_is_planned_from_its_files() -> None:
    services = Services(device=lambda: describe_device("M1 8GB"))
    words = ["chat", "--private", "-m", "demo", "--memory", "1MB"]
    result = CliRunner().invoke(cli, words, obj=services, input="hi\n")
    assert result.exit_code == 1
    assert "The plan:\n" in result.stderr
    assert "  mlx-gptoss chat -m demo\n      resident, " in result.stderr
