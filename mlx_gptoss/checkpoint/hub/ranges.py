"""Request a file of the Hub from a given byte, following redirects.

The Hub answers itself or redirects to a storage host. The token is sent to the Hub
only. Proxies and certificates are those of the hub library's session.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin, urlsplit

from mlx_gptoss.checkpoint.hub.library import library
from mlx_gptoss.checkpoint.hub.retries import StorageHostError
from mlx_gptoss.errors import HubError

MAX_REDIRECTS = 10
PARTIAL = 206
RANGE_REFUSED = 416
REFUSED = (401, 403, 404, 410)  # by a storage host: the Hub can give a new address
OWN_HEADERS = ("authorization", "if-range")  # sent to the Hub only
RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d{1,18}|\*)", re.ASCII)
PORTS = {"http": 80, "https": 443}


@contextmanager
def open_range(url: str, start: int, etag: str) -> Iterator[Any]:
    """Yield the response to a request for a file's bytes from `start`.

    Raises HubError if the file on the Hub no longer has this `etag`.
    """
    from huggingface_hub import constants  # noqa: PLC0415 - half a second

    utils = library().utils
    headers = {**utils.build_hf_headers(), "Accept-Encoding": "identity"}
    if start:
        # `If-Range`: the Hub sends a changed file in full. A storage host uses another
        # tag; there only the hash detects a change.
        headers |= {"Range": f"bytes={start}-", "If-Range": f'"{etag}"'}
    home, at = origin(url), url
    for _ in range(MAX_REDIRECTS):
        is_hub = origin(at) == home
        sent = {
            k: v for k, v in headers.items() if is_hub or k.lower() not in OWN_HEADERS
        }
        with utils.get_session().stream(
            "GET",
            at,
            headers=sent,
            follow_redirects=False,
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as response:
            if response.has_redirect_location:
                at = _join_redirect(at, response.headers["Location"])
                _require_etag(response.headers.get("X-Linked-Etag"), etag, url)
                continue
            if not is_hub and response.status_code in REFUSED:
                raise StorageHostError(response.status_code)
            if response.status_code != RANGE_REFUSED:
                utils.hf_raise_for_status(response)
            if is_hub and response.status_code != RANGE_REFUSED:
                linked = response.headers.get("X-Linked-Etag")
                _require_etag(linked or response.headers.get("ETag"), etag, url)
            yield response
            return
    raise HubError(f"`{url}` is redirected more than {MAX_REDIRECTS} times: try later")


def continues_at(response: Any, start: int, size: int | None) -> bool:
    """Whether a response starts at byte `start` of a file of `size` bytes."""
    if response.status_code != PARTIAL:
        return start == 0
    found = RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None or _is_encoded(response):
        return False
    total = None if found[2] == "*" else int(found[2])
    return int(found[1]) == start and (None in (total, size) or total == size)


def is_other_content(response: Any, size: int | None) -> bool:
    """Whether the length of a response shows that it is not a file of `size` bytes.

    For example the login page of a network.
    """
    length = response.headers.get("Content-Length")
    if response.status_code == PARTIAL or _is_encoded(response) or size is None:
        return False
    return length is not None and length != str(size)


def _is_encoded(response: Any) -> bool:
    return bool(response.headers.get("Content-Encoding", "identity") != "identity")


def _join_redirect(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return location  # invalid too: `origin` raises for it


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port; raises HubError for an invalid address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in PORTS or not parts.hostname:
        raise HubError(f"the Hub redirects to `{url}`, which is not a web address")
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme]


def _require_etag(found: str | None, etag: str, url: str) -> None:
    if found is not None and found.removeprefix("W/").strip('"') != etag:
        raise HubError(f"`{url}` changed while it was downloaded: pull it again")
