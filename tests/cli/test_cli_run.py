"""`run`, as people know it from Ollama, and a model in the place of a message."""

import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.chat import meant_model
from mlx_gptoss.cli.services import Services
from tests.cli.test_chat_terminal import ENTER, PROGRAM, ready
from tests.support.scripted_chat import scripted_runtime
from tests.support.terminals import Terminal

ONE = "<|channel|>final<|message|>one<|return|>"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, stdin: str = "") -> tuple[Result, list[str]]:
    """Run a command; also return the models that were loaded."""
    loaded: list[str] = []

    def load(model: str, **options: Any) -> Any:
        loaded.append(model)
        return scripted_runtime(ONE)

    class Anywhere(Services):
        def find(self, model: str, options: Any) -> Path:
            return Path(model)

    services = Anywhere(load=load)
    done = CliRunner().invoke(cli, list(words), obj=services, input=stdin)
    return done, loaded


def test_run_answers_a_prompt_and_ends() -> None:
    done, loaded = run("run", "demo", "hi")
    assert (done.exit_code, done.stdout, loaded) == (0, "one\n", ["demo"])
    assert run("run", "demo", stdin="hi\n")[0].stdout == "one\n"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gpt-oss:20b", "openai/gpt-oss-20b"),
        ("gpt-oss", "openai/gpt-oss-20b"),
        ("gpt-oss:120b", "openai/gpt-oss-120b"),
    ],
)
def test_the_names_of_ollama_are_known(name: str, model: str) -> None:
    assert meant_model.published_name(name) == model


def test_a_model_in_the_place_of_a_message_is_said_in_a_pipe() -> None:
    done, loaded = run("chat", "openai/gpt-oss-20b")
    assert (done.stdout, loaded) == ("one\n", ["demo"])
    assert "to chat with the model of that name: mlx-gptoss chat -m openai/" in (
        done.stderr
    )
    assert "sent as the message" not in run("chat", "and/or")[0].stderr
    assert "sent as the message" not in run("chat", "-m", "demo", "demo")[0].stderr


@pytest.mark.parametrize(("said", "shown"), [("y", "demo ·"), ("n", "> demo")])
def test_a_model_in_the_place_of_a_message_is_asked_about(
    said: str, shown: str
) -> None:
    program = PROGRAM.replace('"-m", "demo", ', "").replace('"chat"', '"chat", "demo"')
    with Terminal([sys.executable, "-c", program, '[["x"], 0, [], null]']) as terminal:
        terminal.wait_for("`demo` could be the name of a model. Chat with that model?")
        terminal.send(said + ENTER)
        terminal.wait_for(shown)
        if said == "y":
            ready(terminal, 1)
            assert "> demo" not in terminal.everything
