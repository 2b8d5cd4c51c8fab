"""Compressed bodies: decoded within the limit of bodies, or refused in words."""

import asyncio
import gzip
import json
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.api.settings import RequestLimits, ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.content_encoding import (
    CODINGS,
    DecodedBody,
    UndecodableBodyError,
    zstd,
)
from tests.support.answering_app import constant
from tests.support.serving import DATE, asked

PATH = "/v1/chat/completions"
BODY = json.dumps({"messages": [{"role": "user", "content": "Is it? " * 50}]}).encode()


def raw_deflate(data: bytes) -> bytes:
    deflating = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflating.compress(data) + deflating.flush()


ENCODE = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}
ENCODED = [
    ("gzip", gzip.compress(BODY)),
    ("x-gzip", gzip.compress(BODY)),
    ("GZIP", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
    ("deflate", zlib.compress(BODY)),
    ("deflate", raw_deflate(BODY)),
    ("zstd", zstd.compress(BODY)),
    ("zstd", zstd.compress(BODY[:9]) + zstd.compress(BODY[9:])),
    ("gzip, zstd", zstd.compress(gzip.compress(BODY))),
    ("deflate,identity , gzip", gzip.compress(zlib.compress(BODY))),
    ("identity", BODY),
    ("", BODY),
]


@pytest.fixture(scope="module")
def fake() -> Iterator[Runtime]:
    with constant() as runtime:
        yield runtime


def post(
    runtime: Runtime,
    content: Any,
    encoding: str,
    *,
    most: int = 10_000,
    path: str = PATH,
) -> httpx2.Response:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    limits = ServerSettings(date=DATE, limits=RequestLimits(body_bytes=most))

    async def work() -> httpx2.Response:
        async with asked(runtime, limits) as client:
            return await client.post(path, content=content, headers=headers)

    return asyncio.run(work())


@pytest.mark.parametrize(
    ("encoding", "content"), ENCODED, ids=lambda x: x if isinstance(x, str) else ""
)
def test_a_compressed_body_is_read(
    fake: Runtime, encoding: str, content: bytes
) -> None:
    assert post(fake, content, encoding).status_code == 200


def test_it_may_come_in_small_pieces(fake: Runtime) -> None:
    async def pieces(content: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(content), 5):
            yield content[at : at + 5]

    for encoding, content in ENCODED:
        assert post(fake, pieces(content), encoding).status_code == 200, encoding


@pytest.mark.parametrize(
    "encoding",
    ["br", "compress", "lz4", "gzip, br", "gzip;q=1", ", ".join(["gzip"] * 4)],
)
def test_another_encoding_is_refused_with_those_that_are_read(
    fake: Runtime, encoding: str
) -> None:
    reply = post(fake, BODY, encoding)

    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (415, "unsupported_encoding")
    assert reply.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert "send gzip, deflate, zstd, or plain JSON" in error["message"]


@pytest.mark.parametrize(
    ("encoding", "content", "why"),
    [
        ("gzip", gzip.compress(BODY)[:-1], "not valid `gzip`: its end is missing"),
        ("gzip", b"\x1f", "not valid `gzip`: its end is missing"),
        ("gzip", BODY, "not valid `gzip`: it is damaged"),
        ("gzip", gzip.compress(BODY) + b"more", "not valid `gzip`: it is damaged"),
        ("deflate", zlib.compress(BODY)[:-1], "not valid `deflate`: its end"),
        ("deflate", raw_deflate(BODY)[:-1], "not valid `deflate`: its end"),
        ("deflate", zlib.compress(BODY) + b"x", "not valid `deflate`: it is damaged"),
        ("zstd", zstd.compress(BODY)[:-1], "not valid `zstd`: its end is missing"),
        ("zstd", b"\x28\xb5", "not valid `zstd`: its end is missing"),
        ("zstd", gzip.compress(BODY), "not valid `zstd`: it is damaged"),
        ("zstd", zstd.compress(BODY) + b"more", "not valid `zstd`: it is damaged"),
        ("gzip, zstd", zstd.compress(BODY), "not valid `gzip`: it is damaged"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_damaged_body_is_refused_in_words(
    fake: Runtime, encoding: str, content: bytes, why: str
) -> None:
    reply = post(fake, content, encoding)

    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "invalid_body")
    assert why in error["message"]


def test_what_is_decoded_and_no_json_is_told_as_that(fake: Runtime) -> None:
    reply = post(fake, gzip.compress(b"{"), "gzip")

    assert reply.json()["error"]["message"] == "the body is not JSON"


def test_nothing_at_all_is_nothing_in_any_encoding(fake: Runtime) -> None:
    for encoding in CODINGS:
        assert "must be a JSON object" in post(fake, b"", encoding).text


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "gzip, gzip"])
def test_a_body_is_decoded_no_further_than_allowed(
    fake: Runtime, encoding: str
) -> None:
    content = b" " * 8_000_000
    for one in encoding.split(", "):
        content = ENCODE[one](content)
    tracemalloc.start()
    reply = post(fake, content, encoding, most=100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (413, "request_too_large")
    assert peak < 3_000_000


def test_a_body_may_be_as_large_as_the_limit_and_no_larger(fake: Runtime) -> None:
    for encoding, encode in ENCODE.items():
        content = encode(BODY)
        assert post(fake, content, encoding, most=len(BODY)).status_code == 200
        assert post(fake, content, encoding, most=len(BODY) - 1).status_code == 413


def test_clients_of_anthropic_are_told_in_their_form(fake: Runtime) -> None:
    reply = post(fake, BODY, "br", path="/v1/messages")

    assert reply.json()["error"]["type"] == "invalid_request_error"


@settings(deadline=None, max_examples=30)
@given(
    data=st.binary(max_size=300),
    codings=st.lists(st.sampled_from(sorted(CODINGS)), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    lost=st.integers(0, 3),
)
def test_what_is_decoded_is_what_was_encoded_however_it_comes(
    data: bytes, codings: list[str], cuts: list[int], lost: int
) -> None:
    content = data
    for one in codings:
        content = ENCODE[one](content)
    content = content[: len(content) - lost]
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges)]

    async def work() -> bytes:
        messages = [
            {"type": "http.request", "body": one, "more_body": at < len(pieces) - 1}
            for at, one in enumerate(pieces)
        ]

        async def receive() -> Any:
            return messages.pop(0)

        body = DecodedBody(receive, codings, 1000, lambda: AssertionError("too large"))
        return b"".join([(await body())["body"] for _ in pieces])

    if lost:
        with pytest.raises(UndecodableBodyError):
            asyncio.run(work())
    else:
        assert asyncio.run(work()) == data


def test_a_number_that_python_does_not_read_is_named(fake: Runtime) -> None:
    reply = post(fake, b'{"seed": ' + b"1" * 5000 + b"}", "identity")

    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "invalid_body")
    assert "numbers of at most 4,300 digits" in error["message"]


def test_nothing_is_decoded_in_the_event_loop(fake: Runtime) -> None:
    called = set[str]()

    def note(frame: Any, event: str, _: Any) -> None:
        called.add(frame.f_code.co_qualname)

    encoding, content = ENCODED[0]
    sys.setprofile(note)  # of this thread, which is the event loop's
    try:
        reply = post(fake, content, encoding)
    finally:
        sys.setprofile(None)

    assert reply.status_code == 200
    assert "DecodedBody.__call__" in called
    assert "DecodedBody._decoded" not in called
