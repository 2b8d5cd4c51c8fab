"""One value says how a model is loaded: `LoadOptions`, from every side."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlx_gptoss import LoadOptions, load
from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.diagnostics.bench.our_server import arguments
from mlx_gptoss.engine.planned_load import download_check, plan_checkpoint
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.errors import CheckpointError, ConfigError, GptOssError
from mlx_gptoss.memory import Budget
from tests.support.checkpoints import write_checkpoint

GIVEN = {
    "--memory": "2GB",
    "--experts": "hybrid",
    "--context": "64",
    "--dtype": "float32",
    "--wired": "off",
    "--trace": __file__,
    "--offline": None,
    "--strict": None,
}
READ = LoadOptions(
    memory=2 * 10**9,
    experts="hybrid",
    context=64,
    dtype="float32",
    wired="off",
    trace=Path(__file__),
    offline=True,
    strict=True,
)


class Anywhere(Services):
    """Finds every model."""

    def find(self, model: str, options: LoadOptions) -> Path:
        return Path(model)


def loaded_by(command: str, *words: str) -> LoadOptions:
    """Return the options with which a command loads its model."""
    seen: list[LoadOptions] = []

    def fake(model: str, *, options: LoadOptions, **_: Any) -> Any:
        seen.append(options)
        raise CheckpointError("it is enough to see them")

    given = [word for pair in GIVEN.items() for word in pair if word is not None]
    line = [command, "hi", "-m", "demo", *given, *words]
    done = CliRunner().invoke(cli, line, obj=Anywhere(load=fake))
    assert done.exit_code == 1, done.output
    (options,) = seen
    return options


def test_a_command_passes_every_option_on() -> None:
    chats = replace(READ, harmony=True)
    assert loaded_by("generate", "--private") == replace(chats, cache=CacheOptions())
    assert loaded_by("chat", "--disk-cache", "1kB", "--private").cache == CacheOptions()
    assert not loaded_by("generate", "--raw", "--private").harmony


def test_a_command_line_is_written_as_it_was_read() -> None:
    written = arguments(READ)
    pairs = [word for pair in GIVEN.items() for word in pair if word is not None]
    pairs[1] = str(2 * 10**9)
    assert sorted(written) == sorted(pairs)
    assert arguments(LoadOptions()) == []


def test_fields_replace_those_of_the_options(folder: Path) -> None:
    options = LoadOptions(context=20, dtype="float32")
    with load(folder, options=options, context=12) as runtime:
        assert runtime.context == 12


def test_an_argument_that_is_no_field_is_an_error(folder: Path) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'memroy'"):
        load(folder, memroy="8GB")


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "float8"},
        {"experts": "both"},
        {"memory": "16 apples"},
        {"memory": 0},
        {"wired": "much"},
        {"context": 0},
    ],
)
def test_what_no_model_allows_is_refused_when_it_is_made(wrong: dict) -> None:
    with pytest.raises(GptOssError, match=r"^[^\n]+$"):
        LoadOptions(**wrong)
    with pytest.raises(GptOssError):
        replace(LoadOptions(cache=CacheOptions(), batch=BatchOptions()), **wrong)


def test_a_context_is_refused_alike_before_and_after_a_download(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path))
    options = LoadOptions(context=200_000)
    with pytest.raises(ConfigError, match="more than the 131,072") as before:
        download_check("x", options)(tmp_path / "config.json", 1)
    with pytest.raises(ConfigError) as after:
        plan_checkpoint(checkpoint, options)
    assert str(before.value) == str(after.value)


def test_a_plan_takes_of_the_devices_memory_what_is_asked_for(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_checkpoint(tmp_path))
    device = Budget(10**9, 2 * 10**9, "a test")
    sizes = ["500MB", "9GB", None]
    plans = [
        plan_checkpoint(checkpoint, LoadOptions(memory=size), budget=device)
        for size in sizes
    ]
    assert [plan.budget.bytes for plan in plans] == [5 * 10**8, 2 * 10**9, 10**9]
