"""The hub library: imported late, its telemetry off; its own download of one file.

Its download is for what cannot come over plain HTTP, and for a file outside the cache.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

Report = Callable[[int], None]  # bytes of one file that have come


def library() -> ModuleType:
    """Import huggingface_hub with its telemetry off, whoever imported it before."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub  # noqa: PLC0415 - half a second
    from huggingface_hub import constants  # noqa: PLC0415

    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def is_offline() -> bool:
    return bool(library().constants.HF_HUB_OFFLINE)


def is_too_large_for_http(size: int | None) -> bool:
    """Whether the Hub gives a file of this size to its own transfer only (hf_xet)."""
    return bool(size) and size > library().constants.MAX_HTTP_DOWNLOAD_SIZE


def fetch_by_library(
    repo: str,
    name: str,
    revision: str,
    *,
    endpoint: str | None,
    cache: Path | None = None,
    local: Path | None = None,
    report: Report | None = None,
) -> Path:
    """Download a file by the library's means, into its cache or the folder `local`."""
    return Path(
        library().hf_hub_download(
            repo,
            name,
            revision=revision,
            cache_dir=cache,
            local_dir=local,
            endpoint=endpoint,
            tqdm_class=_progress_bar(report),
        )
    )


def _progress_bar(report: Report | None) -> type:
    """Return a stand-in for tqdm that reports to `report` and never prints."""
    from huggingface_hub.utils import tqdm  # noqa: PLC0415

    class Reporter(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            # hf_xet has a second bar for the network; it counts the same file.
            self.counts = not (options.get("name") or "").endswith(".transfer")
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.n += n or 0
            if report and self.counts:
                report(int(self.n))
            return None

    return Reporter
