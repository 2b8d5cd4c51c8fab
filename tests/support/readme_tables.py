"""Read the tables of harmony/README.md as test data."""

import re
from pathlib import Path

import mlx_gptoss.harmony

README = Path(mlx_gptoss.harmony.__file__).with_name("README.md").read_text()


def table(section: str) -> list[list[str]]:
    """The rows of the table whose first line starts with `section`."""
    lines = README[README.index(section) :].split("\n\n", 1)[0].splitlines()
    return [
        [
            cell.strip().replace("\\|", "|")
            for cell in re.split(r"(?<!\\)\|", line)[1:-1]
        ]
        for line in lines[2:]
    ]


def code(cell: str) -> list[str]:
    """The texts in backticks."""
    return re.findall(r"`([^`]*)`", cell)
