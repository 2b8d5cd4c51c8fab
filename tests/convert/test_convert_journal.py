"""Damaged journals: what is repeated, and what is refused."""

from pathlib import Path

import pytest

from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.write.conversion import convert
from tests.support.checkpoints import write_folder
from tests.support.conversions import (
    CONFIG,
    TENSORS,
    interrupt,
    interrupted_journal,
    plan_of,
    resumed,
    undisturbed,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "source", CONFIG, TENSORS)


@pytest.fixture
def expected(source: Path, tmp_path: Path) -> dict[str, bytes]:
    return undisturbed(source, tmp_path / "undisturbed")


def test_a_line_cut_short_in_the_journal_never_counted(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    journal = interrupted_journal(source, tmp_path / "dst")
    journal.write_bytes(journal.read_bytes()[:-9])
    assert resumed(source, tmp_path / "dst") == expected


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 4096,
        b"\0" * 37 + b"\n",
        b"{}\n",
        b'{"outputs":{}}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=["zeros", "a line of zeros", "nothing", "no source", "deep"],
)
def test_what_no_step_wrote_behind_a_journal_never_counted(
    source: Path, tmp_path: Path, expected: dict[str, bytes], tail: bytes
) -> None:
    journal = interrupted_journal(source, tmp_path / "dst")
    done = journal.read_bytes()
    journal.write_bytes(done + tail)
    interrupt(plan_of(source), tmp_path / "dst", 0, resume=True)
    assert journal.read_bytes() == done
    assert resumed(source, tmp_path / "dst") == expected


def test_zeros_within_a_journal_cost_the_steps_behind_them(
    source: Path, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    journal = interrupted_journal(source, tmp_path / "dst")
    first, second, *rest = journal.read_bytes().splitlines(keepends=True)
    assert rest
    zeros = b"\0" * len(rest[0])
    journal.write_bytes(b"".join([first, second, zeros, *rest[1:]]))
    assert resumed(source, tmp_path / "dst") == expected


@pytest.mark.parametrize("opening", [b"\0" * 512, b"{}\n", b"\xff\n", b'["a"]\n'])
def test_a_journal_that_does_not_say_of_what_it_is_is_refused(
    source: Path, tmp_path: Path, opening: bytes
) -> None:
    journal = interrupted_journal(source, tmp_path / "dst")
    journal.write_bytes(opening)
    with pytest.raises(ConversionError, match=r"is damaged .*: remove `.*partial`"):
        convert(plan_of(source), tmp_path / "dst", resume=True)


@pytest.mark.parametrize("result", [b"\0\0", b"[]", b"{"])
def test_a_damaged_result_is_refused(
    source: Path, tmp_path: Path, result: bytes
) -> None:
    interrupt(plan_of(source), tmp_path / "dst", 0)
    partial = tmp_path / "dst.partial"
    (partial / "journal.jsonl").unlink()
    (partial / "conversion.json").write_bytes(result)
    with pytest.raises(ConversionError, match="is damaged"):
        convert(plan_of(source), tmp_path / "dst", resume=True)
