"""Progress of long measurements: a callback gets one line before each step."""

from collections.abc import Callable

ReportProgress = Callable[[str], None]


def ignore_progress(_line: str) -> None:
    """Report nothing."""
