"""Bodies that arrive compressed, decoded as they come and no further than allowed.

    receive = Decoded(receive, codings_of(scope["headers"]), most=limits.body_bytes)

A few kilobytes can stand for gigabytes: what is decoded counts, at each stage, and is
never held beyond the limit. Knows bytes; nothing of what they mean.
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

MAX_CODINGS = 3  # one over the other
ALIASES = {"x-gzip": "gzip"}
IDENTITY = "identity"
MIN_WINDOW_LOG = 23  # 8 MiB, which every decoder should have (RFC 8878)
CLOSE = {"Connection": "close"}


class UndecodableBodyError(HTTPException):
    """A body that cannot be decoded; the message says why."""


class ContentDecoder(Protocol):
    """One coding of a body. `whole`: what has come may be all of it."""

    whole: bool

    def feed(self, data: bytes, most: int) -> bytes:
        """Decode a piece to `most` + 1 bytes at most."""
        ...


class ZlibDecoder:
    """gzip, of one member after another, and deflate, with a header or without."""

    def __init__(self, *, gzip: bool) -> None:
        self.whole = True  # nothing at all is an empty body
        self._gzip = gzip
        self._held = b""
        self._stream: Any = None

    def feed(self, data: bytes, most: int) -> bytes:
        out, data = b"", self._held + data
        self._held = b""
        while data and len(out) <= most:
            if self._stream is None:
                if len(data) < 2:  # too little to tell by
                    self._held, self.whole = data, False
                    break
                self._stream = zlib.decompressobj(self._bits(data))
            out += self._stream.decompress(data, most - len(out) + 1)
            data = self._stream.unconsumed_tail
            self.whole = self._stream.eof
            if self._stream.eof and (data := self._stream.unused_data):
                if not self._gzip:
                    raise zlib.error("there is more behind its end")
                self._stream = None
        return out

    def _bits(self, data: bytes) -> int:
        if self._gzip:
            return zlib.MAX_WBITS | 16
        headed = data[0] & 15 == zlib.DEFLATED and not (data[0] << 8 | data[1]) % 31
        return zlib.MAX_WBITS if headed else -zlib.MAX_WBITS


class ZstdDecoder:
    """Zstandard, of one frame after another; its window is no larger than a body."""

    def __init__(self, most: int) -> None:
        self.whole = True
        name = zstd.DecompressionParameter.window_log_max
        low, high = name.bounds()
        window = max(MIN_WINDOW_LOG, most.bit_length())
        self._options: dict[int, int] = {name: min(max(window, low), high)}
        self._stream: Any = None

    def feed(self, data: bytes, most: int) -> bytes:
        out = b""
        while data and len(out) <= most:
            if self._stream is None:
                self._stream = zstd.ZstdDecompressor(options=self._options)
            out += self._stream.decompress(data, most - len(out) + 1)
            while not self._stream.eof and not self._stream.needs_input:
                if len(out) > most:
                    return out
                out += self._stream.decompress(b"", most - len(out) + 1)
            self.whole = self._stream.eof
            data = self._stream.unused_data if self._stream.eof else b""
            if self._stream.eof:
                self._stream = None
        return out


CODINGS: dict[str, Callable[[int], ContentDecoder]] = {
    "gzip": lambda most: ZlibDecoder(gzip=True),
    "deflate": lambda most: ZlibDecoder(gzip=False),
    "zstd": ZstdDecoder,
}
ACCEPTED = ", ".join(CODINGS)


def content_codings(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    """How a body is encoded, in the order in which that was done."""
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
    """Receives a body and gives it decoded. Raises HTTPException for what is wrong."""

    def __init__(
        self,
        receive: Receive,
        codings: list[str],
        most: int,
        too_large: Callable[[], Exception],
    ) -> None:
        self._receive = receive
        self._stages = [(one, CODINGS[one](most)) for one in reversed(codings)]
        self._left = dict.fromkeys(range(len(codings)), most)
        self._too_large = too_large
        self._whole = False

    async def __call__(self) -> Message:
        message = await self._receive()
        if self._whole or message["type"] != "http.request":
            return message
        self._whole = not message.get("more_body", False)
        # In a thread: some bytes may become a whole body.
        body = await asyncio.to_thread(self._decoded, message.get("body", b""))
        return {**message, "body": body}

    def _decoded(self, data: bytes) -> bytes:
        for at, (name, decoder) in enumerate(self._stages):
            try:
                data = decoder.feed(data, self._left[at])
            except (zlib.error, zstd.ZstdError):
                raise undecodable(name, "it is damaged, or encoded otherwise") from None
            self._left[at] -= len(data)
            if self._left[at] < 0:
                raise self._too_large()
            if self._whole and not decoder.whole:
                raise undecodable(name, "its end is missing")
        return data


def undecodable(name: str, why: str) -> UndecodableBodyError:
    return UndecodableBodyError(400, f"the body is no whole `{name}`: {why}", CLOSE)
