"""`--json` is what the help of each command says: an object, an array, or lines."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.cli import cli
from tests.support.checkpoints import write_checkpoint
from tests.support.saved_chats import saved
from tests.support.scripted_chat import scripted_runtime

KINDS: dict[str, Callable[[str], Any]] = {
    "Print one JSON object": json.loads,
    "Write one JSON object": json.loads,
    "Print one JSON array": json.loads,
    "Report as JSON lines": lambda text: [*map(json.loads, text.splitlines())],
}
CALLS = {  # in this order: later ones use what earlier ones wrote
    "models": "",
    "models list": "",
    "sessions": "",
    "sessions list": "",
    "sessions search": "Ferries",
    "sessions show": "ID",
    "ps": "",
    "inspect": "demo",
    "plan": "demo",
    "generate": "-m demo --max-tokens 4 hi",
    "render": "messages.json",
    "parse": "parsed.txt",
    "convert": "random converted",
    "verify": "converted --against random",
    "compare": "converted converted",
    "trace replay": "routing.trace",
    "doctor": "",
    "redact": "question.txt --patterns-only",
    "batch": "question.txt answers.jsonl --prompt {text} --max-tokens 4",
    "classify": "question.txt --policy question.txt --max-reasoning 0 --no-scores",
}
# Tested with what they need: a server, a device, minutes, or a file.
ELSEWHERE = re.compile(r"bench |tune |agents check|probe|merge|sessions export")


def commands_with_json(command: click.Command, path: str = "") -> Iterator[str]:
    if any("--json" in each.opts for each in command.params):
        yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands_with_json(inner, f"{path} {name}".strip())


def json_help(path: str) -> str:
    command: click.Command = cli
    for name in path.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    [option] = [each for each in command.params if "--json" in each.opts]
    assert isinstance(option, click.Option)
    return option.help or ""


ALL = [*commands_with_json(cli)]


def test_every_command_with_json_is_called_here_or_elsewhere() -> None:
    assert [one for one in ALL if not ELSEWHERE.match(one)] == [
        one for one in ALL if one in CALLS
    ]
    assert {json_help(path) for path in ALL} == set(KINDS)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("json")
    patch = pytest.MonkeyPatch()
    patch.setenv("HOME", str(folder))
    patch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "HF_HOME", "HF_HUB_CACHE"):
        patch.delenv(name, raising=False)
    patch.chdir(folder)
    write_checkpoint(folder / "random")
    messages = [{"role": "user", "content": "hi"}]
    (folder / "messages.json").write_text(json.dumps(messages))
    (folder / "question.txt").write_text("hi\n")
    (folder / "parsed.txt").write_text("<|channel|>final<|message|>Hello<|return|>")
    saved(Sessions.open(), scripted_runtime("x"), "Ferries to Oslo")
    called("trace record routing.trace -m demo --tokens 4 hello")
    yield folder
    patch.undo()


def called(line: str) -> str:
    done = CliRunner().invoke(cli, line.split())
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("path", CALLS)
def test_json_is_what_the_help_says(path: str, workplace: Path) -> None:
    words = CALLS[path].replace("ID", Sessions.open().list()[0].short_id)
    said = json_help(path)
    printed = KINDS[said](called(f"{path} {words} --json"))
    kind = dict if "object" in said else list
    assert isinstance(printed, kind)
    assert printed or path == "ps"


def test_models_and_conversations_are_listed_alike(workplace: Path) -> None:
    """The same words, the same answer to the bare command, empty or not."""
    for name in ("models", "sessions"):
        assert called(name) == called(f"{name} list")
        assert called(f"{name} --json") == called(f"{name} list --json")
        first, *rest = called(name).splitlines()
        assert first == first.upper() and "LAST USED" in first and rest
        refused = CliRunner().invoke(cli, [name, "rm", "no-such-thing", "--yes"])
        assert (refused.exit_code, refused.stdout) == (1, "")
        bare = CliRunner().invoke(cli, [name, "rm"])
        assert (bare.exit_code, bare.stdout) == (2, "")
