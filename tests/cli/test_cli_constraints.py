"""The options of `generate` and `chat` that bind an answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.runtime import Runtime
from tests.support.scripted_chat import scripted_runtime

HELLO = (
    "<|channel|>analysis<|message|>They greet. END<|end|><|start|>assistant"
    "<|channel|>final<|message|>Hello! END Bye.<|return|>"
)
JSON = '<|channel|>final<|message|>{"ok": true}<|return|>'


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("MLX_GPTOSS_MODEL", raising=False)


def run(runtime: Runtime, *words: str, stdin: str | None = None) -> Result:
    def load(model: str, **options: Any) -> Runtime:
        return runtime

    given = [*words, "-m", "demo", "--temperature", "0", "--max-tokens", "120"]
    return CliRunner().invoke(cli, given, obj=Services(load=load), input=stdin)


@pytest.mark.parametrize(
    ("words", "stdin"), [(["generate", "hi"], None), (["chat"], "hi\n")]
)
def test_a_stop_text_ends_the_answer_not_the_reasoning(
    words: list[str], stdin: str | None
) -> None:
    result = run(
        scripted_runtime(HELLO), *words, "--stop", "END", "--stop", "x", stdin=stdin
    )

    assert (result.exit_code, result.stdout) == (0, "Hello! \n")
    assert result.stderr == "They greet. END\n"


def test_a_schema_binds_the_answer_and_the_model_is_told(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    runtime = scripted_runtime(JSON)
    read = runtime.model

    result = run(runtime, "generate", "Is it?", "--json-schema", str(path))

    assert (result.exit_code, result.stdout) == (0, '{"ok": true}\n')
    assert "# Response Formats" in read.text_read


def test_patterns_and_grammars_bind_the_answer(tmp_path: Path) -> None:
    said = "<|channel|>final<|message|>No!<|return|>"
    grammar = tmp_path / "answer.lark"
    grammar.write_text('start: "No" "!"*')
    gbnf = tmp_path / "answer.gbnf"
    gbnf.write_text('root ::= [A-Z] "o" "!"*')

    for words in (
        ["--regex", "(Yes|No)!"],
        ["--grammar", str(grammar)],
        ["--grammar", str(gbnf)],
    ):
        result = run(scripted_runtime(said), "generate", "Is it?", *words)
        assert (result.exit_code, result.stdout) == (0, "No!\n")


def test_reasoning_that_was_cut_is_told() -> None:
    result = run(scripted_runtime(HELLO), "generate", "hi", "--max-reasoning", "4")

    assert result.stderr.startswith("They\n")
    assert "(the reasoning was cut at --max-reasoning)" in result.stderr
    told = run(
        scripted_runtime(HELLO), "generate", "hi", "--max-reasoning", "4", "--json"
    )
    assert json.loads(told.stdout)["stats"]["finish_details"] == ["reasoning_budget"]


def test_constraining_can_be_turned_off() -> None:
    broken = "<|channel|>fin<|message|>Hello!<|return|>"

    assert run(
        scripted_runtime(broken), "generate", "hi", "--constrain", "off"
    ).stdout == ("Hello!\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "schema.json"
    path.write_text(content)

    result = run(scripted_runtime(JSON), "generate", "hi", "--json-schema", str(path))

    assert result.exit_code in (1, 2)
    assert message in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--regex", "a", "--grammar", __file__], "give one of --json-schema"),
        (["--constrain", "off", "--max-reasoning", "1"], "cannot be kept with"),
        (["--raw", "--max-reasoning", "1"], "--max-reasoning needs Harmony"),
        (["--json-schema", "missing.json"], "does not exist"),
        (["--stop", ""], "`stop` is"),
    ],
)
def test_options_that_contradict_are_refused(words: list[str], message: str) -> None:
    result = run(scripted_runtime(HELLO), "generate", "hi", *words)

    assert result.exit_code in (1, 2)
    assert message in result.stderr


def test_stop_texts_end_a_raw_continuation(tmp_path: Path) -> None:
    runtime = scripted_runtime("never asked")
    ids = runtime.tokenizer.encode("one two three")

    def logits_of(read: list[int]) -> list[float]:
        said = len(read) - len("x")
        return [20.0 if n == ids[said % len(ids)] else 0.0 for n in range(300)]

    runtime.model.logits_of = logits_of
    result = run(runtime, "generate", "--raw", "x", "--stop", "three")

    assert (result.exit_code, result.stdout) == (0, "one two \n")
