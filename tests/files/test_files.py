"""Files that are written whole or not at all: full disks, kills, links, devices."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlx_gptoss.errors import StorageError
from mlx_gptoss.files import (
    draft,
    remove_stale,
    require_writable,
    scratch,
    storage_errors,
    write,
)
from tests.support.full_disks import fill, small_disk

OLD, NEW = "the old text", "the new text" * 9_000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_for_its_owner_alone_unless_it_need_not_be(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write(tmp_path / "secret", NEW)
        write(tmp_path / "shared", NEW, private=False)
        (tmp_path / "kept").touch(0o640)
        write(tmp_path / "kept", NEW, private=False)
    finally:
        os.umask(before)

    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {"secret": 0o600, "shared": 0o644, "kept": 0o640}


def test_text_that_is_no_utf_8_is_written_with_question_marks(tmp_path: Path) -> None:
    write(tmp_path / "x", "half a pair \ud800, a line\r\n")
    assert (tmp_path / "x").read_bytes() == b"half a pair ?, a line\r\n"


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        write(disk / "x", OLD)
        fill(disk)
        with pytest.raises(StorageError, match="the disk is full: make room") as found:
            write(disk / "x", NEW)
        with pytest.raises(StorageError):
            write(disk / "y", NEW)

        assert (found.value.full, (disk / "x").read_text()) == (True, OLD)
        assert names(disk) == ["fill", "x"]


LIMITED = """
import resource, sys
from pathlib import Path
from mlx_gptoss.errors import StorageError
from mlx_gptoss.files import write
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))
try:
    write(Path(sys.argv[1]), "y" * 9000)
except StorageError as error:
    sys.stdout.write(error.reason)
"""


def test_a_limit_of_the_system_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
) -> None:
    write(tmp_path / "x", OLD)
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "larger than this system allows" in ended.stdout
    assert ((tmp_path / "x").read_text(), names(tmp_path)) == (OLD, ["x"])


def a_file_in_the_way(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "x"


def a_folder_of_that_name(folder: Path) -> Path:
    (folder / "x").mkdir()
    return folder / "x"


def a_link_that_loops(folder: Path) -> Path:
    (folder / "x").symlink_to("x")
    return folder / "x"


def no_folder(folder: Path) -> Path:
    return folder / "none" / "x"


def a_long_name(folder: Path) -> Path:
    return folder / ("x" * 256)


def a_folder_that_may_not_be_written(folder: Path) -> Path:
    (folder / "locked").mkdir(0o500)
    if os.access(folder / "locked", os.W_OK):
        pytest.skip("root may write everywhere")
    return folder / "locked" / "x"


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (a_file_in_the_way, "Not a directory; check the path"),
        (a_folder_of_that_name, "it is a folder"),
        (a_link_that_loops, "a loop of symbolic links"),
        (no_folder, "its folder does not exist"),
        (a_long_name, "its name is too long"),
        (a_folder_that_may_not_be_written, "check the path and its permissions"),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_nothing(
    place, said: str, tmp_path: Path
) -> None:
    path = place(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=rf"`.*` cannot be written: .*{said}"):
        write(path, NEW)
    with pytest.raises(StorageError, match=said):
        require_writable(path)
        write(path, NEW)  # a long name shows when the draft is renamed
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_disk_is_named(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 * 1024) as disk:
        write(disk / "x", OLD)
        remount = ["mount", "-o", "remount,ro", str(disk)]
        subprocess.run(remount, check=True)
        with pytest.raises(StorageError, match="the disk is read-only"):
            write(disk / "x", NEW)
        assert (disk / "x").read_text() == OLD


def test_no_other_file_is_written_over_where_that_is_not_meant(tmp_path: Path) -> None:
    write(tmp_path / "x", OLD)
    with pytest.raises(StorageError, match="it already exists"):
        write(tmp_path / "x", NEW, replace=False)
    write(tmp_path / "y", NEW, replace=False)

    assert (tmp_path / "x").read_text() == OLD
    assert names(tmp_path) == ["x", "y"]


def test_a_link_of_ones_own_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("deep/x")
    write(tmp_path / "link", OLD)
    write(tmp_path / "link", NEW)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "deep" / "x").read_text() == NEW
    assert names(tmp_path / "deep") == ["x"]


def test_devices_and_pipes_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write(pipe, NEW)
    reader.join()
    write(Path(os.devnull), NEW)

    assert read == [NEW]
    assert names(tmp_path) == ["pipe"]
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_device_that_takes_nothing_is_named() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(StorageError, match="the disk is full"):
        write(Path("/dev/full"), NEW)


KILLED = """
import os, signal, sys
from pathlib import Path
from mlx_gptoss.files import draft, scratch
with scratch(Path(sys.argv[1])) as inside, draft(Path(sys.argv[1]) / "x") as place:
    (inside / "big").write_text("z" * 9000)
    place.write_text("half of the new te")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    write(tmp_path / "x", OLD)
    (tmp_path / ".mlx-gptoss-other").touch()  # neither a draft nor a folder of ours
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(command, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ((tmp_path / "x").read_text(), len(names(tmp_path))) == (OLD, 4)

    write(tmp_path / "y", NEW)

    assert names(tmp_path) == [".mlx-gptoss-other", "x", "y"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with scratch(tmp_path) as inside, draft(tmp_path / "x") as place:
        remove_stale(tmp_path)
        write(tmp_path / "y", NEW)
        assert (inside.is_dir(), place.exists()) == (True, True)
        place.write_text(NEW)
    assert names(tmp_path) == ["x", "y"]


WRITES = re.compile(
    r"""open\([^)]*["'][wax]b?["']|\.write_(text|bytes)\(|O_CREAT|mkstemp|mkdtemp"""
    r"""|NamedTemporaryFile|TemporaryDirectory|save_file\(|sqlite3\.connect"""
)
WRITERS = {  # files and rooms that write without `files/`, and why
    "files/": "the room itself",
    "chat/sessions/": "SQLite: a file that must exist, and one in memory",
    "chat/tools/notebook/": "user code writes to a folder of its own",
    "checkpoint/hub/partial_file.py": "a download is appended to",
    "diagnostics/agents/": "settings files of other programs, several at once",
    "diagnostics/bench/batch.py": "within a temporary folder",
    "diagnostics/bench/our_server.py": "a home for the measured server",
    "diagnostics/bench/random_checkpoint.py": "within a scratch folder",
    "diagnostics/bench/training_engines.py": "within a scratch folder",
    "diagnostics/doctor/selftest.py": "within a scratch folder",
    "diagnostics/probe/disk.py": "within a scratch folder, bypassing the page cache",
    "engine/prompt_cache/file_format.py": "MLX writes the draft",
    "server/batches/files.py": "an upload is written to its draft in pieces",
    "server/log_file.py": "lines are appended",
    "workloads/batch/journal.py": "lines are appended to files that can be resumed",
    "workloads/tune/run_log.py": "lines are appended",
    "measure/decoders.py": "within a scratch folder",
    "measure/foreign_sources.py": "within a scratch folder",
    "measure/speed.py": "within a scratch folder",
    "write/journal.py": "lines are appended",
    "write/writer.py": "shards are written in pieces and can be resumed",
}


def test_files_are_written_in_one_place() -> None:
    """A new writer uses `files/`, or is listed above with a reason."""
    root = Path(__file__).parents[2]
    folders = (root / "mlx_gptoss", root / "convert" / "mlx_gptoss_convert")
    writers = {
        str(path.relative_to(folder))
        for folder in folders
        for path in folder.rglob("*.py")
        if WRITES.search(path.read_text("utf-8"))
    }
    known = {one for one in writers if one.startswith(tuple(WRITERS))}
    assert writers == known


def test_a_write_that_numpy_could_not_finish_has_a_reason() -> None:
    with (
        pytest.raises(StorageError, match="the disk is full"),
        storage_errors(Path("x")),
    ):
        raise OSError("9000 requested and 992 written")


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    write(tmp_path / "x", OLD)
    with pytest.raises(RuntimeError), draft(tmp_path / "x") as place:
        place.write_text("half")
        raise RuntimeError
    with pytest.raises(StorageError, match="the disk failed"), draft(tmp_path / "x"):
        raise OSError(errno.EIO, "Input/output error")
    assert ((tmp_path / "x").read_text(), names(tmp_path)) == (OLD, ["x"])


def test_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    texts = [f"{n}" * 30_000 for n in range(4)]

    def work(text: str) -> None:
        for _ in range(5):
            write(tmp_path / "x", text)

    writers = [threading.Thread(target=work, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (tmp_path / "x").read_text() in texts
    assert names(tmp_path) == ["x"]
