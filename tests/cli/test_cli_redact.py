"""`redact` and `unredact`: text on stdout, what was found on stderr, never the text."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlx_gptoss.cli import cli
from mlx_gptoss.cli.redact.documents import FORMATS
from mlx_gptoss.workloads.redact import documents
from tests.support.checkpoints import write_checkpoint
from tests.support.privacy_filters import write_filter, write_word_filter

LETTER = "Ada (ada@example.org) pays with 4111 1111 1111 1111.\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    return write_word_filter(folder, {"Ada": "private_person"})


def call(*arguments: object, text: str | None = None) -> tuple[int, str, str]:
    found = CliRunner().invoke(cli, [str(x) for x in arguments], input=text)
    assert found.exception is None or isinstance(found.exception, SystemExit), (
        found.exc_info
    )
    return found.exit_code, found.stdout, found.stderr


def test_patterns_alone_need_no_model() -> None:
    code, out, err = call("redact", "--patterns-only", text=LETTER)
    assert (code, out) == (0, "Ada ([EMAIL_1]) pays with [ACCOUNT_NUMBER_1].\n")
    assert "Masked: 1 email, 1 account_number" in err
    assert "Found by: 1 email, 1 card" in err
    assert "ada@" not in err and "names" in err


def test_a_model_and_patterns_are_united(model: Path) -> None:
    code, out, err = call("redact", "-m", model, text=LETTER)
    assert code == 0, err
    assert out == "[PERSON_1] ([EMAIL_1]) pays with [ACCOUNT_NUMBER_1].\n"
    code, out, _ = call("redact", "-m", model, "--json", "--keep", "email", text=LETTER)
    (found,) = json.loads(out)["files"]
    assert found["text"].startswith("[PERSON_1] (ada@example.org)")
    assert [span["found_by"] for span in found["spans"]] == [["model"], ["card"]]
    assert found["spans"][0]["start"] == 0 and found["spans"][0]["byte_end"] == 3
    assert "Ada" not in json.dumps(found["spans"])


def test_folders_and_a_vault_there_and_back(model: Path, tmp_path: Path) -> None:
    inside, out, back = tmp_path / "in", tmp_path / "out", tmp_path / "back"
    (inside / "deep").mkdir(parents=True)
    contents = {"a.md": "# Ada\r\n", "deep/b.json": '{"to": "Ada", "n": [1.50]}'}
    contents["c.csv"] = "name,mail\r\nAda,ada@example.org\r\n"
    for name, content in contents.items():
        (inside / name).write_bytes(content.encode())
    (inside / "d.bin").write_bytes(b"\0\1")
    vault = tmp_path / "kept"
    given = ("redact", inside, "-m", model, "-o", out, "--vault", vault)
    code, _, err = call(*given)
    assert code == 0, err
    assert "left out, as no text: 1 files" in err and "Masked in 3 files" in err
    made = {path.name: path.read_bytes().decode() for path in out.rglob("*.*")}
    assert made["a.md"] == "# [PERSON_1]\r\n"
    assert made["b.json"] == '{"to": "[PERSON_1]", "n": [1.50]}'
    assert made["c.csv"] == "name,mail\r\n[PERSON_1],[EMAIL_1]\r\n"
    assert vault.stat().st_mode & 0o777 == 0o600
    code, _, err = call("unredact", out / "in", "--vault", vault, "-o", back)
    assert code == 0, err
    for name, content in contents.items():
        assert (back / "in" / name).read_bytes().decode() == content
        assert (back / "in" / name).stat().st_mode & 0o777 == 0o600
    code, text, _ = call("unredact", "--vault", vault, text="Dear [PERSON_1]!")
    assert (code, text) == (0, "Dear Ada!")


def test_wrong_uses_are_refused_by_name(tmp_path: Path) -> None:
    own = write_filter(tmp_path / "filter")
    code, _, err = call("generate", "-m", own, "Hi")
    assert code == 1 and "token classifier" in err and "mlx-gptoss redact -m" in err
    other = write_checkpoint(tmp_path / "model")
    code, _, err = call("redact", "-m", other, text="x")
    assert code == 1 and "gives no labels" in err
    code, _, err = call("redact", "--patterns-only", "--favour", "recall", text="x")
    assert code == 2 and "--favour is for a model" in err
    code, _, err = call("redact", "--patterns-only", tmp_path)
    assert code == 1 and "--output" in err
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 " * 3000)
    code, _, err = call("redact", "--patterns-only", tmp_path / "latin.txt")
    assert code == 1 and "not UTF-8" in err
    (tmp_path / "bad.json").write_text('{"a": ')
    code, out, err = call("redact", "--patterns-only", tmp_path / "bad.json")
    assert (code, out) == (1, "") and "is no JSON in line 1" in err


def test_a_classifier_is_described(tmp_path: Path) -> None:
    folder = write_filter(tmp_path)
    code, out, _ = call("inspect", folder)
    assert code == 0 and "token classifier with 33 labels" in out
    code, out, _ = call("inspect", folder, "--json", "--deep")
    assert len(json.loads(out)["labels"]) == 33


def test_the_formats_of_the_command_are_those_that_are_read() -> None:
    assert tuple(documents.FORMATS) == FORMATS


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    text = (Path(documents.__file__).parents[1] / "README.md").read_text("utf-8")
    block = text.partition("$ cat letter.txt\n")[2].partition("```")[0]
    letter, _, rest = block.partition("$ mlx-gptoss redact ")
    call_line, _, shown = rest.partition("\n")
    (tmp_path / "letter.txt").write_text(letter)
    words = [
        word.replace("letter.txt", f"{tmp_path}/letter.txt")
        for word in call_line.split()
    ]
    code, out, err = call("redact", *words)
    assert (code, out + err) == (0, shown)
