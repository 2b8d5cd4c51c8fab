"""`chat` with tools: offered, asked about, run; mistakes in the options are named."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.cli.tool_options import read_approval
from mlx_gptoss.engine.runtime import Runtime
from tests.support.fakes import AnsweringModel, answering, byte_tokenizer

BYE = "<|channel|>final<|message|>Bye.<|return|>"
SEARCH = (
    '<|channel|>analysis to=browser.search code<|message|>{"query": "ferry"}<|call|>'
)
OPEN = '<|channel|>analysis to=browser.open code<|message|>{"id": 0}<|call|>'
CITING = "<|channel|>final<|message|>Hourly 【1†L0】, yes 【1†L0】.<|return|>"
PYTHON = "<|channel|>analysis to=python code<|message|>print(6 * 7)<|call|>"


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)


def chat(runtime: Runtime | None, *arguments: str, stdin: str = "hi\n") -> Result:
    def load(model: str, **options: Any) -> Runtime:
        assert runtime is not None, "a model was loaded"
        return runtime

    words = ["chat", *arguments, "-m", "demo", "--temperature", "0"]
    return CliRunner().invoke(cli, words, obj=Services(load=load), input=stdin)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes, old"
    folder.mkdir()
    (folder / "oslo.txt").write_text("The ferry goes hourly.")
    return folder


def test_a_chat_browses_files_and_names_its_sources(notes: Path) -> None:
    result = chat(answering(SEARCH, OPEN, CITING), "--tools", f"browser={notes}")
    assert (result.exit_code, result.stdout) == (
        0,
        "Hourly 【1†L0】, yes 【1†L0】.\n",
    )
    assert 'browser.search({"query": "ferry"})' in result.stderr
    assert "L0: The ferry goes hourly." in result.stderr
    assert result.stderr.endswith("\n【1†L0】 oslo.txt\n")


def test_without_a_terminal_nobody_can_be_asked(notes: Path) -> None:
    tools = ("--tools", f"browser={notes}", "--approve", "ask")
    result = chat(answering(SEARCH, BYE), *tools)
    assert (result.exit_code, result.stdout) == (0, "Bye.\n")
    assert (
        "browser.search was not run: stdin is no terminal to ask at; "
        "`--approve allow` runs calls unasked\n"
        "-> Error: the user did not allow this call\n"
    ) in result.stderr


def test_a_policy_holds_without_asking(notes: Path) -> None:
    tools = ("--tools", f"browser={notes}", "--approve", "browser=deny")
    result = chat(answering(SEARCH, BYE), *tools)
    assert (
        "-> Error: the user does not allow calls of `browser.search`" in result.stderr
    )


def test_tools_are_off_unless_asked_for() -> None:
    runtime = answering(BYE)
    model = runtime.model
    assert isinstance(model, AnsweringModel)
    assert chat(runtime).stdout == "Bye.\n"
    [prompt] = model.prompts
    assert "# Tools" not in byte_tokenizer().decode(prompt)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tools", "pyton"], "there is no tool `pyton`: use python, browser or"),
        (["--tools", "python=x"], "there is no tool `python=x`"),
        (["--tools", "browser,browser=/"], "`browser` is named twice"),
        (["--approve", "maybe"], "`maybe` is not [TOOL=]HOW, where HOW is ask, allow"),
        (["--mcp", "/no/such.json"], "'/no/such.json' does not exist"),
        (
            ["--offline", "--tools", "browser=https://s.example/?q={query}"],
            "is on the network, which --offline forbids",
        ),
    ],
)
def test_a_mistake_in_the_options_is_wrong_usage(
    arguments: list[str], message: str
) -> None:
    result = chat(None, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tools", "browser=/no/such"], "cannot read `/no/such`: No such file"),
        (["--tools", "browser=http://127.0.0.1/"], "needs `{query}`"),
    ],
)
def test_what_cannot_be_had_is_an_error_before_the_model_is_loaded(
    arguments: list[str], message: str
) -> None:
    result = chat(None, *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_a_broken_mcp_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    (tmp_path / "mcp.json").write_text("[]")
    result = chat(None, "--mcp", str(tmp_path / "mcp.json"))
    assert result.exit_code == 1
    assert "needs an object `mcpServers`" in result.stderr


@pytest.mark.parametrize(
    ("given", "policies"),
    [
        ((), {"python": "ask", "browser.open": "allow", "files_read": "ask"}),
        (("ask",), {"python": "ask", "browser.open": "ask"}),
        (("allow", "python=deny"), {"python": "deny", "files_read": "allow"}),
        (("python=allow", "python=deny"), {"python": "deny"}),
        (("files_*=allow", "files_rm=deny"), {"files_rm": "deny", "files_x": "allow"}),
    ],
)
def test_what_runs_code_is_asked_about(
    given: tuple[str, ...], policies: dict[str, str]
) -> None:
    approval = read_approval(given, lambda call: False)
    assert {name: approval.policy_of(name) for name in policies} == policies


def test_a_chat_runs_python() -> None:
    result = chat(
        answering(PYTHON, BYE), "--tools", "python", "--approve", "python=allow"
    )
    if "cannot be isolated here" in result.stderr:
        assert result.exit_code == 1
        pytest.skip(result.stderr)
    assert (result.exit_code, result.stdout) == (0, "Bye.\n")
    assert "python(print(6 * 7))\n-> 42\n" in result.stderr
