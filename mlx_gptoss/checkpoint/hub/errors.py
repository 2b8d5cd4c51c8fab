"""Turn the hub library's exceptions into HubError: what, where, what to do."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_gptoss.checkpoint.hub.library import library
from mlx_gptoss.errors import HubError, NeedsConversionError

FORBIDDEN = (401, 403)
DISK_FAILS = (
    errno.EIO,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class GgufOnlyError(NeedsConversionError):
    """A model has only GGUF weights, which must be converted."""


@contextmanager
def hub_errors(model: str) -> Iterator[None]:
    """Turn every failure of a download into a HubError about `model`."""
    library()  # reads and checks its environment variables
    from huggingface_hub import errors  # noqa: PLC0415

    # httpx's base class, or httpx2's: the hub library changed from one to the other.
    http = errors.HTTPError  # pyright: ignore[reportPrivateImportUsage]
    # The Rust part (hf_xet) raises RuntimeError when a transfer fails.
    try:
        yield
    except (http, errors.XetDownloadError, OSError, RuntimeError) as error:
        raise HubError(_explain(model, error)) from error


def _explain(model: str, error: Exception) -> str:
    from huggingface_hub import constants, errors  # noqa: PLC0415

    page = f"{constants.ENDPOINT}/{model}"
    if isinstance(error, errors.GatedRepoError):
        return f"`{model}` is gated: accept its terms at {page}, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"`{model}` is not on the Hub, or is private: check the id at {page}, "
            f"log in with `hf auth login`, or write `./{model}` for a folder"
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _status(model, error.response.status_code)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return (
            f"the disk is full ({os.strerror(error.errno)}): make room, then run the "
            "same command again to resume"
        )
    if isinstance(error, PermissionError) and error.filename:
        return f"cannot write `{error.filename}`: check its owner, or set `HF_HOME`"
    if isinstance(error, OSError) and error.errno in DISK_FAILS:
        where = f" `{error.filename}`" if error.filename else ""
        return (
            f"the cache of downloads cannot be written{where} "
            f"({os.strerror(error.errno)}): check the disk, or set `HF_HOME`"
        )
    if isinstance(error, OSError) and "Consistency check" in str(error):
        return (
            f"a file of `{model}` arrived damaged: run `mlx-gptoss pull {model}` again"
        )
    return (
        f"cannot get `{model}` from {constants.ENDPOINT} ({_cause(error)}): check the "
        "network and try again, received data is kept"
    )


def _status(model: str, status: int) -> str:
    if status in FORBIDDEN:
        return (
            f"the Hub refused `{model}` ({status}): your token may be wrong or lack "
            "access, see `hf auth whoami`"
        )
    return f"the Hub answered {status} for `{model}`: try again later"


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__
