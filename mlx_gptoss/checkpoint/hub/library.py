"""The hub library, imported lazily with telemetry disabled, and its own download.

That download is for files too large for plain HTTP, and for files outside the cache.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from mlx_gptoss.errors import HubError

ReportBytes = Callable[[int], None]  # bytes of one file received


def library() -> ModuleType:
    """Import huggingface_hub with its telemetry disabled.

    Raises HubError if its environment variables are invalid.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import huggingface_hub  # noqa: PLC0415 - half a second
        from huggingface_hub import constants  # noqa: PLC0415

        _require_address(constants.ENDPOINT)
    except ValueError as error:
        raise HubError(
            f"the variables of the Hub cannot be read ({error}): check `HF_ENDPOINT` "
            "and those that begin with `HF_HUB_`"
        ) from error
    constants.HF_HUB_DISABLE_TELEMETRY = True
    return huggingface_hub


def _require_address(endpoint: str) -> None:
    parts = urlsplit(endpoint)
    plain = endpoint.isascii() and endpoint.isprintable() and " " not in endpoint
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ValueError(f"`{endpoint}` is not a web address")
    _ = parts.port  # raises ValueError for an invalid port


def require_session() -> None:
    """Raise HubError for invalid certificates, proxies or tokens."""
    token = library().get_token()
    from huggingface_hub import utils  # noqa: PLC0415

    try:
        utils.get_session()
    except ImportError as error:
        raise HubError(
            "a SOCKS proxy needs a missing package: `pip install socksio`, "
            "or unset `ALL_PROXY`"
        ) from error
    except ValueError as error:
        raise HubError(
            f"a proxy cannot be used ({error}): check `HTTP_PROXY`, `HTTPS_PROXY` and "
            "`ALL_PROXY`"
        ) from error
    except OSError as error:
        raise HubError(
            f"the certificates cannot be read ({error.strerror or error}): check "
            "`SSL_CERT_FILE` and `SSL_CERT_DIR`"
        ) from error
    if not (token or "").isascii():
        raise HubError(
            "the Hub token contains an invalid character: check "
            "`HF_TOKEN`, or `hf auth login`"
        )


def is_offline() -> bool:
    return bool(library().constants.HF_HUB_OFFLINE)


def is_too_large_for_http(size: int | None) -> bool:
    """Whether the Hub serves a file of this size only by its own protocol (hf_xet)."""
    return bool(size) and size > library().constants.MAX_HTTP_DOWNLOAD_SIZE


def download_with_library(
    repo: str,
    name: str,
    revision: str,
    *,
    endpoint: str | None,
    cache: Path | None = None,
    local: Path | None = None,
    report: ReportBytes | None = None,
) -> Path:
    """Download a file with the library, into its cache or the folder `local`."""
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


def _progress_bar(report: ReportBytes | None) -> type:
    """Return a subclass of tqdm that calls `report` and never prints."""
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
