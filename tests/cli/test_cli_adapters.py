"""`-a/--adapter` on the commands that take it, and `/adapter` in a chat."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss import load
from mlx_gptoss.chat.sessions import Sessions
from mlx_gptoss.cli import cli
from tests.support.adapters import ALL, STRONG, write_random_adapter


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    with load("demo") as runtime:
        config = runtime.config
    write_random_adapter(folder / "one", config, 1, targets=ALL)
    write_random_adapter(folder / "two", config, 2, "mlx-lm", targets=STRONG, size=2.0)
    return folder


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "MLX_GPTOSS_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def run(*words: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(cli, list(words), input=stdin)


def generated(*adapters: str) -> str:
    given = [word for one in adapters for word in ("-a", one)]
    limits = ["--temperature", "0", "--max-tokens", "12", "--raw"]
    result = run("generate", "-m", "demo", *given, *limits, "What is")
    assert result.exit_code == 0, result.output
    return result.stdout


def test_generate_answers_with_the_adapter(adapters: Path) -> None:
    base, one = generated(), generated(f"{adapters}/one")

    assert one != base
    assert generated(f"x={adapters}/one") == one  # a name does not change that
    assert generated(f"x={adapters}/one", f"{adapters}/two") not in (base, one)
    assert generated(f"{adapters}/one:0") == base


def test_generate_refuses_several_of_which_none_is_meant(adapters: Path) -> None:
    given = ("-a", f"x={adapters}/one", "-a", f"y={adapters}/two")
    result = run("generate", "-m", "demo", *given, "hello")

    assert result.exit_code == 1
    assert "one adapter answers, and `x`, `y` are given" in result.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [("./none", "`./none` does not exist"), ("./one:nan", "gives it no name")],
)
def test_what_is_not_there_is_one_line(given: str, said: str) -> None:
    result = run("generate", "-m", "demo", "-a", given, "hello")

    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def chat(*lines: str, options: tuple[str, ...] = ()) -> Result:
    words = ("chat", "-m", "demo", "--temperature", "0", "--max-tokens", "8", *options)
    return run(*words, stdin="\n".join(lines) + "\n")


def test_a_chat_shows_and_changes_its_adapter(adapters: Path) -> None:
    given = ("-a", f"{adapters}/one", "-a", f"two={adapters}/two")
    result = chat("/adapter", "/adapter two", "/adapter off", options=given)

    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if line.startswith("Adapter")]
    assert said == [
        "Adapter: one (loaded: one, two)",
        "Adapter: two (loaded: one, two)",
        "Adapter: none (loaded: one, two)",
    ]


def test_a_single_adapter_answers_in_a_chat_also_with_a_name(adapters: Path) -> None:
    result = chat("/adapter", options=("-a", f"x={adapters}/one"))
    assert "Adapter: x (loaded: x)" in result.stderr


def test_an_unknown_adapter_is_named(adapters: Path) -> None:
    result = chat("/adapter three", options=("-a", f"{adapters}/one"))
    assert "no adapter `three` is loaded: this model has `one`" in result.output


def test_the_adapter_is_saved_with_the_session(adapters: Path) -> None:
    given = ("-a", f"one={adapters}/one", "-a", f"two={adapters}/two")
    assert chat("/adapter two", "hi", options=given).exit_code == 0
    sessions = Sessions.open()
    assert sessions.load(sessions.list()[0].id)["adapter"] == "two"

    again = chat("/adapter", options=(*given, "--continue"))
    assert "Adapter: two (loaded: one, two)" in again.stderr
    other = chat("/adapter", options=("-a", f"{adapters}/one", "--continue"))
    assert "Adapter: one (loaded: one)" in other.stderr
    without = chat("/adapter", options=("--continue",))
    assert "its adapter `two` is not loaded" in without.stderr
    assert "Adapter: none" in without.stderr


def test_the_plan_counts_adapters(adapters: Path) -> None:
    def planned(*given: str) -> dict[str, int]:
        result = run("plan", "demo", "--json", *given)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["plan"]

    plain, adapted = planned(), planned("-a", f"{adapters}/one")
    more = adapted["total_bytes"] - plain["total_bytes"]
    assert adapted["bytes_by_part"]["adapters"] == more > 0  # pyright: ignore
    shown = run("plan", "demo", "-a", f"{adapters}/one").stdout
    assert "\nadapters " in shown


def test_a_server_takes_one_folder_for_several_models(adapters: Path) -> None:
    given = ("-m", "a=demo", "-m", "b=demo", "-a", f"{adapters}/one")
    result = run("serve", *given, "--port", "0")

    assert result.exit_code == 2
    assert "--adapter is for one model" in result.stderr


def test_bench_decode_compares_with_the_model_without_it(adapters: Path) -> None:
    options = ("--depth", "8", "--tokens", "2", "--rounds", "1", "--json")
    given = ("-m", "demo", "-a", f"{adapters}/one")
    result = run("bench", "decode", *given, *options)
    assert result.exit_code == 0, result.output
    names = [column["name"] for column in json.loads(result.stdout)["columns"]]
    assert names == ["mlx_gptoss", "mlx_gptoss without"]

    refused = run("bench", "decode", *given, "--against", "mlx-lm")
    assert "leave out `--against` or `--adapter`" in refused.stderr
