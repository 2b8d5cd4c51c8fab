"""Downloading again is proposed only where bytes are missing."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROPOSED = re.compile(r"download (\w+ ){0,4}again", re.IGNORECASE)
PLACES = {"mlx_gptoss/checkpoint/wrong_files.py"}  # of a file that is cut short


def test_only_a_file_that_is_cut_short_is_to_be_downloaded_again() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("mlx_gptoss", "convert/mlx_gptoss_convert")
        for path in (ROOT / folder).rglob("*.py")
        if PROPOSED.search(re.sub(r'"\s+f?"', "", path.read_text("utf-8")))
    }
    assert found == PLACES
