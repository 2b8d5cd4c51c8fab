"""Decode compressed request bodies as they arrive, up to a size limit.

    codings = content_codings(scope["headers"])
    receive = DecodedBody(receive, codings, limit=limits.body_bytes, too_large=...)

A few kilobytes can decode to gigabytes, so the limit applies to the output of every
stage: none produces more than one byte beyond it. Knows bytes, not their content.
"""

import asyncio
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAX_CODINGS = 3  # nested
ALIASES = {"x-gzip": "gzip"}
IDENTITY = "identity"
MIN_WINDOW_LOG = 23  # 8 MiB, the least that decoders should support (RFC 8878)
CLOSE = {"Connection": "close"}


class UndecodableBodyError(HTTPException):
    """A body that cannot be decoded; the message gives the reason."""


class ContentDecoder(Protocol):
    """Decoder of one content coding. `whole`: the input so far may be complete."""

    whole: bool

    def feed(self, data: bytes, limit: int) -> bytes:
        """Decode a chunk; return at most `limit` + 1 bytes."""
        ...


class ZlibDecoder:
    """gzip, with any number of members, and deflate, with or without zlib header."""

    def __init__(self, *, gzip: bool) -> None:
        self.whole = True  # no input is an empty body
        self._gzip = gzip
        self._held = b""
        self._stream: Any = None

    def feed(self, data: bytes, limit: int) -> bytes:
        out, data = b"", self._held + data
        self._held = b""
        while data and len(out) <= limit:
            if self._stream is None:
                if len(data) < 2:  # too short to tell the format
                    self._held, self.whole = data, False
                    break
                self._stream = zlib.decompressobj(self._bits(data))
            out += self._stream.decompress(data, limit - len(out) + 1)
            data = self._stream.unconsumed_tail
            self.whole = self._stream.eof
            if self._stream.eof and (data := self._stream.unused_data):
                if not self._gzip:
                    raise zlib.error("data after the end of the stream")
                self._stream = None
        return out

    def _bits(self, data: bytes) -> int:
        if self._gzip:
            return zlib.MAX_WBITS | 16
        headed = data[0] & 15 == zlib.DEFLATED and not (data[0] << 8 | data[1]) % 31
        return zlib.MAX_WBITS if headed else -zlib.MAX_WBITS


class ZstdDecoder:
    """Zstandard, with any number of frames; the window is bounded by the body limit."""

    def __init__(self, limit: int) -> None:
        self.whole = True
        name = zstd.DecompressionParameter.window_log_max
        low, high = name.bounds()
        window = max(MIN_WINDOW_LOG, limit.bit_length())
        self._options: dict[int, int] = {name: min(max(window, low), high)}
        self._stream: Any = None

    def feed(self, data: bytes, limit: int) -> bytes:
        out = b""
        while data and len(out) <= limit:
            if self._stream is None:
                self._stream = zstd.ZstdDecompressor(options=self._options)
            out += self._stream.decompress(data, limit - len(out) + 1)
            while not self._stream.eof and not self._stream.needs_input:
                if len(out) > limit:
                    return out
                out += self._stream.decompress(b"", limit - len(out) + 1)
            self.whole = self._stream.eof
            data = self._stream.unused_data if self._stream.eof else b""
            if self._stream.eof:
                self._stream = None
        return out


CODINGS: dict[str, Callable[[int], ContentDecoder]] = {
    "gzip": lambda limit: ZlibDecoder(gzip=True),
    "deflate": lambda limit: ZlibDecoder(gzip=False),
    "zstd": ZstdDecoder,
}
ACCEPTED = ", ".join(CODINGS)


def content_codings(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """Return the codings of a body in the order in which they were applied."""
    given = [
        one.strip().lower()
        for name, value in headers
        if name.lower() == b"content-encoding"
        for one in value.decode("latin-1").split(",")
    ]
    named = [ALIASES.get(one, one) for one in given if one]
    return [one for one in named if one != IDENTITY]


def can_decode(codings: list[str]) -> bool:
    return len(codings) <= MAX_CODINGS and all(one in CODINGS for one in codings)


class DecodedBody:
    """Receive a body and decode it. Raises HTTPException for an invalid one."""

    def __init__(
        self,
        receive: Receive,
        codings: list[str],
        limit: int,
        too_large: Callable[[], Exception],
    ) -> None:
        self._receive = receive
        self._stages = [(one, CODINGS[one](limit)) for one in reversed(codings)]
        self._left = dict.fromkeys(range(len(codings)), limit)
        self._too_large = too_large
        self._whole = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if self._whole or message["type"] != "http.request":
            return message
        self._whole = not message.get("more_body", False)
        # In a thread: a few bytes may decode to a whole body.
        body = await asyncio.to_thread(self._decoded, message.get("body", b""))
        return {**message, "body": body}

    def _decoded(self, data: bytes) -> bytes:
        for at, (name, decoder) in enumerate(self._stages):
            try:
                data = decoder.feed(data, self._left[at])
            except (zlib.error, zstd.ZstdError):
                raise undecodable(
                    name, "it is damaged, or has another encoding"
                ) from None
            self._left[at] -= len(data)
            if self._left[at] < 0:
                raise self._too_large()
            if self._whole and not decoder.whole:
                raise undecodable(name, "its end is missing")
        return data


def undecodable(name: str, why: str) -> UndecodableBodyError:
    return UndecodableBodyError(400, f"the body is not valid `{name}`: {why}", CLOSE)
