"""An output goes on where it was, whatever became of its files."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import BatchError
from mlx_gptoss.workloads.batch.journal import OutputJournal, journal_path

IDENTITY = {"input": "1", "options": "2"}
HEADING = b"a,b\n"


def open_journal(folder: Path, identity: dict[str, str] = IDENTITY) -> OutputJournal:
    return OutputJournal.open(
        folder / "out.csv", folder / "errors.jsonl", identity, heading=HEADING
    )


def line_of(index: int) -> bytes:
    return b"%d," % index + b"x" * (index % 7) + b"\n"


def is_error(index: int) -> bool:
    return index % 3 == 0


def work(folder: Path, order: list[int]) -> None:
    """Append what is not there yet, as a run would."""
    with open_journal(folder) as journal:
        for index in order:
            if index not in journal.done:
                journal.append(index, line_of(index), is_error=is_error(index))


def require_whole(folder: Path, order: list[int]) -> None:
    """Every item once, in its file."""
    output = (folder / "out.csv").read_bytes()
    errors = folder / "errors.jsonl"
    failed = errors.read_bytes().splitlines(keepends=True) if errors.exists() else []
    assert output.startswith(HEADING)
    answered = output.removeprefix(HEADING).splitlines(keepends=True)
    assert sorted(answered) == sorted(line_of(i) for i in order if not is_error(i))
    assert sorted(failed) == sorted(line_of(i) for i in order if is_error(i))


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations(range(12)),
    first=st.integers(0, 12),
    cut=st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)),
    torn=st.booleans(),
)
def test_no_item_is_lost_or_doubled_however_files_are_cut(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    first: int,
    cut: tuple[int, int, int],
    torn: bool,
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    work(folder, order[:first])
    state = journal_path(folder / "out.csv")
    if torn:  # as after a crash between a line and its entry
        for path in (folder / "out.csv", folder / "errors.jsonl", state):
            if path.exists():
                path.write_bytes(path.read_bytes() + b"[7, 0")
    for path, size in zip(
        (folder / "out.csv", folder / "errors.jsonl", state), cut, strict=True
    ):
        if path.exists() and size:
            content = path.read_bytes()
            least = content.index(b"\n") + 1 if path == state else 0
            path.write_bytes(content[: max(least, len(content) - size)])
    work(folder, order)
    require_whole(folder, order)


def test_a_finished_output_is_left_as_it_is(tmp_path: Path) -> None:
    work(tmp_path, list(range(9)))
    before = (tmp_path / "out.csv").read_bytes()
    work(tmp_path, list(range(9)))
    assert (tmp_path / "out.csv").read_bytes() == before


def test_a_deleted_output_is_written_again(tmp_path: Path) -> None:
    work(tmp_path, list(range(9)))
    (tmp_path / "out.csv").unlink()
    work(tmp_path, list(range(9)))
    require_whole(tmp_path, list(range(9)))


def test_a_changed_output_is_refused_and_kept(tmp_path: Path) -> None:
    work(tmp_path, list(range(9)))
    for name in ("out.csv", "errors.jsonl"):
        path = tmp_path / name
        before = path.read_bytes()
        path.write_bytes(changed := before.replace(b"x", b"y", 1))
        with pytest.raises(BatchError, match=f"{name}` was changed"):
            open_journal(tmp_path)
        assert path.read_bytes() == changed != before
        path.write_bytes(before)


def test_an_output_of_other_work_is_refused_and_kept(tmp_path: Path) -> None:
    work(tmp_path, [1, 3])
    before = (
        (tmp_path / "out.csv").read_bytes(),
        (tmp_path / "errors.jsonl").read_bytes(),
    )
    with pytest.raises(BatchError, match=r"other work \(it differs in: options\)"):
        open_journal(tmp_path, IDENTITY | {"options": "3"})
    after = (
        (tmp_path / "out.csv").read_bytes(),
        (tmp_path / "errors.jsonl").read_bytes(),
    )
    assert after == before


def test_a_file_that_was_there_before_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(BatchError, match="says what it belongs to"):
        open_journal(tmp_path)
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert not journal_path(tmp_path / "out.csv").exists()


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    work(tmp_path, [1])
    journal_path(tmp_path / "out.csv").write_text("[]")
    with pytest.raises(BatchError, match="is damaged"):
        open_journal(tmp_path)


def test_two_processes_do_not_write_one_output(tmp_path: Path) -> None:
    with (
        open_journal(tmp_path),
        pytest.raises(BatchError, match="another process is writing"),
    ):
        open_journal(tmp_path)
    work(tmp_path, [1])


def test_the_files_are_private(tmp_path: Path) -> None:
    work(tmp_path, [1, 3])
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {0o600} and len(list(tmp_path.iterdir())) == 3


def test_an_entry_says_where_its_line_ends(tmp_path: Path) -> None:
    work(tmp_path, [2])
    first, entry = journal_path(tmp_path / "out.csv").read_text().splitlines()
    assert json.loads(first) == {"format": 1, **IDENTITY}
    assert json.loads(entry)[:3] == [2, 0, len(HEADING) + len(line_of(2))]
