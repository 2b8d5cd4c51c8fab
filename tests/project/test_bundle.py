"""The recipe of a relocatable folder: built, moved and run. By hand: it downloads.

pytest -m soak tests/project/test_bundle.py       # a minute, and 400 MB on the disk
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.soak
def test_a_bundle_runs_where_it_was_moved_and_writes_nothing(tmp_path: Path) -> None:
    built = tmp_path / "built"
    script = ROOT / "examples" / "bundle" / "build.py"
    done = subprocess.run([sys.executable, script, built], stderr=subprocess.PIPE)
    if b"cannot be moved" in done.stderr:
        pytest.skip(done.stderr.decode().strip())
    moved = tmp_path / "My App"
    shutil.move(built, moved)
    link = tmp_path / "mlx-gptoss"
    link.symlink_to(moved / "bin" / "mlx-gptoss")
    before = contents(moved)
    answer = subprocess.run(
        [link, "generate", "-m", "demo", "--temperature", "0", "What is 417 + 285?"],
        env={"PATH": os.defpath, "HOME": str(tmp_path / "home")},
        check=True,
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "417 + 285 = 702\n"
    assert contents(moved) == before
    told = [
        path
        for path in moved.rglob("*.json")
        if str(ROOT) in path.read_text(errors="replace")
    ]
    assert told == []
