"""`/v1/redact`: texts in, masked texts and places out."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss import Redactor
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.redactor import ServedRedactor
from tests.support.privacy_filters import write_word_filter

TEXT = "é: Ada <ada@example.org>"


def ask(
    runtime: Runtime, redactor: ServedRedactor | None, *bodies: dict[str, Any]
) -> list[httpx2.Response]:
    """Return the replies to requests, from an app in this process."""

    async def all() -> list[httpx2.Response]:
        app = create_app(
            Models.of(runtime, "demo"), ServerSettings(), redactor=redactor
        )
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        where = {"base_url": "http://localhost", "timeout": 60}
        async with httpx2.AsyncClient(transport=transport, **where) as client:
            return [await client.post("/v1/redact", json=body) for body in bodies]

    return asyncio.run(all())


def test_texts_are_masked_as_one_document(
    demo: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_word_filter(tmp_path, {"Ada": "private_person"})
    with Redactor(folder) as redactor, caplog.at_level("DEBUG"):
        served = ServedRedactor("words", redactor)
        one, two, less = ask(
            demo,
            served,
            {"input": TEXT},
            {"input": ["Ada", "so Ada"], "model": "words", "keep": ["email"]},
            {"input": TEXT, "min_confidence": 1.0},
        )
        assert redactor.redact("Ada").text == "[PERSON_1]"  # still loaded
    found = one.json()
    assert (found["object"], found["model"]) == ("redaction", "words")
    (result,) = found["results"]
    assert result["text"] == "é: [PERSON_1] <[EMAIL_1]>"
    span = result["spans"][0]
    assert (span["start"], span["byte_start"], span["found_by"]) == (3, 4, ["model"])
    assert [x["text"] for x in two.json()["results"]] == ["[PERSON_1]", "so [PERSON_1]"]
    assert less.json()["results"][0]["text"] == "é: Ada <[EMAIL_1]>"
    assert "ada@" not in caplog.text


def test_without_a_model_only_patterns_are_there(demo: Runtime) -> None:
    refused, found, wrong, keep = ask(
        demo,
        None,
        {"input": TEXT},
        {"input": TEXT, "patterns_only": True},
        {"input": 7},
        {"input": "x", "patterns_only": True, "keep": ["color"]},
    )
    assert refused.status_code == 400 and "--redact-model" in refused.text
    assert found.json()["results"][0]["text"] == "é: Ada <[EMAIL_1]>"
    assert found.json()["model"] is None
    assert wrong.status_code == 400
    assert keep.status_code == 400 and "color" in keep.text
