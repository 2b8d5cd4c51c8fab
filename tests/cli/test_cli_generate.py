"""`generate` on a scripted model: what goes to stdout, to stderr, and into JSON."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.prompt_cache import CacheOptions
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import scripted
from tests.support.scripted_chat import TOKENIZER, token_ids


class Loads:
    """Loads a model that says `script`; remembers how it was asked to."""

    def __init__(self, script: Sequence[int], prompt: int = 0) -> None:
        self.script, self.prompt = script, prompt
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, model: str, **options: Any) -> Runtime:
        self.calls.append((model, options))
        return Runtime(scripted(self.script, self.prompt), tokenizer=TOKENIZER)


ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)


def generate(load: Loads, *arguments: str, stdin: str | None = None) -> Result:
    services = Services(load=load, hub=Hub())
    words = ["generate", *arguments, "-m", "demo", "--temperature", "0"]
    return CliRunner().invoke(cli, words, obj=services, input=stdin)


def test_raw_continues_text_up_to_the_stop_token() -> None:
    load = Loads(token_ids(" upon a time<|return|>"), prompt=len("Once"))
    result = generate(load, "--raw", "Once")
    assert (result.exit_code, result.stdout) == (0, " upon a time\n")


def test_raw_shows_whole_characters_only() -> None:
    load = Loads(token_ids("né<|return|>"), prompt=len("x"))
    assert generate(load, "--raw", "x").stdout == "né\n"


def test_the_prompt_may_be_piped_in() -> None:
    load = Loads(token_ids("!<|return|>"), prompt=len("hello"))
    assert generate(load, "--raw", stdin="hello\n").stdout == "!\n"
    assert generate(load, "--raw", "-", stdin="hello\n").stdout == "!\n"


@pytest.mark.parametrize("stdin", ["", "  \n"])
def test_an_empty_prompt_is_wrong_usage(stdin: str) -> None:
    result = generate(Loads([]), stdin=stdin)
    assert result.exit_code == 2
    assert "the prompt is empty" in result.stderr


@pytest.mark.parametrize(
    "options", [["--system", "Be brief"], ["--effort", "medium"], ["--hide-reasoning"]]
)
def test_raw_refuses_what_it_would_ignore(options: list[str]) -> None:
    result = generate(Loads([]), "--raw", *options, "x")
    assert result.exit_code == 2
    assert f"{options[0]} needs Harmony: leave out --raw" in result.stderr


def test_max_tokens_end_the_text_and_are_mentioned() -> None:
    load = Loads(token_ids("abcdef<|return|>"), prompt=1)
    result = generate(load, "--raw", "--max-tokens", "3", "x")
    assert result.stdout == "abc\n"
    assert result.stderr == "(stopped at --max-tokens or the end of the context)\n"


def test_stats_go_to_stderr_in_one_line() -> None:
    load = Loads(token_ids("ab<|return|>"), prompt=1)
    result = generate(load, "--raw", "--stats", "x")
    assert result.stderr.startswith("prompt 1 tokens at ")
    assert "answer 3 tokens at " in result.stderr
    assert result.stderr.count("\n") == 1


def test_json_is_one_object_with_everything() -> None:
    load = Loads(token_ids("ab<|return|>"), prompt=1)
    facts = json.loads(generate(load, "--raw", "--json", "x").stdout)
    assert (facts["answer"], facts["finish_reason"]) == ("ab", "stop")
    assert facts["stats"]["completion_tokens"] == 3


def test_loading_options_reach_the_loader() -> None:
    load = Loads(token_ids("a<|return|>"), prompt=1)
    options = ["--memory", "16GB", "--experts", "resident", "--context", "64"]
    generate(
        load, "--raw", "--offline", "--strict", "--dtype", "float32", *options, "x"
    )
    [(model, given)] = load.calls
    assert model == "demo"
    assert given["options"] == LoadOptions(
        memory=16 * 10**9,
        experts="resident",
        context=64,
        dtype="float32",
        offline=True,
        strict=True,
        cache=CacheOptions(disk=4 * 10**9),
    )


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, "generate", *arguments]


def demo_run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the real program on the demo model, as a user would in a pipe."""
    program = "from mlx_gptoss.cli import cli; cli()"
    fixed = ["-m", "demo", "--temperature", "0", "--max-tokens", "8"]
    return subprocess.run(
        python(program, *arguments, *fixed),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_real_program_answers_with_the_demo_and_ends_well() -> None:
    outcome = demo_run("--json", "What is 417 + 285?")
    facts = json.loads(outcome.stdout)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert facts["stats"]["completion_tokens"] == 8


def test_a_model_that_does_not_fit_is_refused_before_it_is_read() -> None:
    outcome = demo_run("--memory", "1MB", "hi")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("Error: `demo` needs ")
    assert outcome.stderr.count("\n") == 1


ENDLESS = """
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import scripted
from tests.support.scripted_chat import TOKENIZER
runtime = Runtime(scripted([97] * 10**6, 1), tokenizer=TOKENIZER)
cli(obj=Services(load=lambda model, **options: runtime))
"""


def test_an_interrupt_ends_the_program_with_130() -> None:
    process = subprocess.Popen(
        python(ENDLESS, "-m", "demo", "--raw", "x", "--temperature", "0"),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.read(1) == b"a"  # it has begun, and would not end
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, b"\n")
