"""`mlx-gptoss classify` as it is typed."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from tests.support.judging import POLICY, THOUGHT, judging


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "manners.md").write_text(POLICY)
    return tmp_path / "manners.md"


def run(policy: Path, *arguments: object, stdin: str = "", **services: Any) -> Result:
    services = {"load": lambda *_, **__: judging()} | services
    words = ["classify", "--policy", str(policy), *map(str, arguments), "-m", "demo"]
    return CliRunner().invoke(cli, words, input=stdin, obj=Services(**services))


def labelled(path: Path, count: int = 12) -> Path:
    rows = [("bad" if n % 3 else "good", "1" if n % 2 else "0") for n in range(count)]
    path.write_text("text,label\n" + "".join(f"{a},{b}\n" for a, b in rows))
    return path


def test_a_text_on_stdin_is_judged(policy: Path) -> None:
    found = run(policy, stdin="That is bad")
    assert (found.exit_code, found.stdout) == (0, "stdin  1  81.8%  M1.a\n")
    lines = run(policy, "-", "--lines", "--json", "--reasoning", stdin="bad\nfine\n")
    first, second = map(json.loads, lines.stdout.splitlines())
    assert (first["label"], second["label"]) == ("1", "0")
    assert first["reasoning"] == THOUGHT and first["text"] == "bad"


def test_a_pile_is_written_and_gone_on_with(policy: Path, tmp_path: Path) -> None:
    source, output = labelled(tmp_path / "in.csv"), tmp_path / "out.csv"
    first = run(policy, source, "-o", output)
    again = run(policy, source, "-o", output, "--json")
    assert first.stdout == "" and "12 texts in" in first.stderr
    assert json.loads(again.stdout)["before"] == 12
    assert "label_verdict" in output.read_text().splitlines()[0]
    reported = run(policy, source, "-o", output, "--report", "--json")
    assert json.loads(reported.stdout)["texts"] == 12


def test_a_report_and_a_calibration(policy: Path, tmp_path: Path) -> None:
    source, fitted = labelled(tmp_path / "in.csv"), tmp_path / "fit.json"
    found = run(policy, source, "--report", "--calibrate", fitted)
    assert found.exit_code == 0, found.output
    assert "12 labelled texts, 50.0% right" in found.stdout
    assert "6 went wrong" in found.stdout and "Calibrated with 12" in found.stderr
    used = run(policy, "--calibration", fitted, stdin="bad")
    assert used.stdout.split()[1] == "1" and "81.8%" not in used.stdout


def test_a_text_without_a_verdict_is_told_by_the_exit_code(
    policy: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "bad"}\n{"text": 1}\n')
    found = run(policy, tmp_path / "in.jsonl")
    assert found.exit_code == 1 and "line 2 has no text" in found.stderr
    assert found.stdout.startswith("line 1  1")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["none.txt"], 1, "cannot be read"),
        (["in.csv", "-o", "out.txt"], 1, "unknown kind"),
        (["in.csv", "-o", "in.csv"], 1, "is judged"),
        (["in.csv", "--policy", "manners.md"], 1, "two policies are named"),
        (["in.csv", "--calibration", "x=in.csv"], 2, "one of `manners`"),
        (["in.csv", "--calibrate", "x", "--no-scores"], 2, "without --calibration"),
        (["-", "-"], 2, "named twice"),
        (["-"], 1, "has no texts"),
    ],
)
def test_bad_input_is_one_line(
    policy: Path,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    labelled(tmp_path / "in.csv", 1)
    found = run(policy, *arguments)
    assert found.exit_code == code and said in found.stderr
    assert "Traceback" not in found.output
