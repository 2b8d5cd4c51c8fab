"""Files that are given with a name, `NAME=FILE`, on the command line."""

import re
from collections.abc import Sequence
from pathlib import Path

import click

NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<path>.+)", re.DOTALL)


def named_file(given: str) -> tuple[str | None, Path]:
    """Return the name, None without one, and the path of `[NAME=]FILE`.

    A file that exists under the whole text is meant by it.
    """
    found = NAMED.fullmatch(given)
    if found is None or Path(given).exists():
        return None, Path(given)
    return found["name"], Path(found["path"])


def calibration_files(given: Sequence[str], policies: Sequence[str]) -> dict[str, Path]:
    """Return `[NAME=]FILE`s by the policy; without a name they are the only one's.

    Raises UsageError for one that belongs to no policy.
    """
    found: dict[str, Path] = {}
    for name, path in map(named_file, given):
        name = policies[0] if name is None and len(policies) == 1 else name
        if name is None or name not in policies:
            known = ", ".join(f"`{one}`" for one in policies)
            raise click.UsageError(
                f"--calibration {path}: write NAME=FILE with one of {known}"
            )
        found[name] = path
    return found
