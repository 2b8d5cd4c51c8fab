"""Content parts: text is kept, a line replaces the rest."""

import base64
from typing import Any

import pytest

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.content_parts import ContentPart, read_part

NOTES = base64.b64encode("Grüße".encode()).decode()
ZIP = base64.b64encode(b"PK").decode()


def line(what: str) -> str:
    return f"[{what}, not shown: gpt-oss reads text]"


TEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"type": "text", "text": "a"}, "a"),
    "output": ({"type": "output_text", "text": "a", "annotations": []}, "a"),
    "refusal": ({"type": "refusal", "refusal": "a"}, "a"),
    "document of text": (
        {"type": "document", "source": {"type": "text", "data": "a"}},
        "a",
    ),
    "document with a title": (
        {"type": "document", "title": "t", "source": {"type": "text", "data": "a"}},
        "t\n\na",
    ),
    "document of text in base64": (
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "text/plain", "data": NOTES},
        },
        "Grüße",
    ),
    "document of parts": (
        {
            "type": "document",
            "source": {
                "type": "content",
                "content": [{"type": "text", "text": "a"}, {"type": "image"}],
            },
        },
        f"a\n\n{line('image')}",
    ),
    "search result": (
        {
            "type": "search_result",
            "title": "t",
            "source": "https://x.test",
            "content": [{"type": "text", "text": "a"}],
        },
        "t\nhttps://x.test\n\na",
    ),
    "file of text": (
        {
            "type": "file",
            "file": {
                "filename": "n.txt",
                "file_data": f"data:text/plain;charset=utf-8;base64,{NOTES}",
            },
        },
        "n.txt\n\nGrüße",
    ),
    "input file of JSON": (
        {
            "type": "input_file",
            "file_data": f"data:application/json;base64,{NOTES}",
        },
        "Grüße",
    ),
    "resource of MCP": (
        {"type": "resource", "resource": {"uri": "file:///n", "text": "a"}},
        "file:///n\n\na",
    ),
    "unknown with a text": ({"type": "web_note", "text": "a"}, "a"),
}


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("must_be_text", [False, True])
def test_text_is_read(case: str, must_be_text: bool) -> None:
    given, text = TEXTS[case]

    assert read_part(given, "it", must_be_text=must_be_text) == ContentPart(text)


@pytest.mark.parametrize(
    "given",
    [
        {"type": "thinking", "thinking": "a", "signature": "x"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
        {"type": "reasoning", "text": "a"},
        {"type": "reasoning", "reasoning": "a"},
        {"type": "reasoning_text", "text": "a"},
    ],
)
def test_thoughts_are_told_apart(given: dict[str, Any]) -> None:
    assert read_part(given, "it") == ContentPart("a", is_reasoning=True)


HIDDEN: list[tuple[Any, str]] = [
    ({"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}, "image"),
    ({"type": "input_image", "image_url": "data:image/png;base64,"}, "image"),
    ({"type": "image", "source": {"type": "base64"}}, "image"),
    ({"type": "input_audio", "input_audio": {}}, "audio"),
    ({"type": "video_url"}, "video_url".removesuffix("_url")),
    (
        {"type": "file", "file": {"file_data": f"data:application/zip;base64,{ZIP}"}},
        "file",
    ),
    (
        {"type": "file", "file": {"file_data": "data:text/plain;base64,!"}},
        "file",
    ),
    (
        {
            "type": "document",
            "source": {
                "type": "base64",
                "media_type": "application/zip",
                "data": ZIP,
            },
        },
        "document",
    ),
    ({"type": "search_result"}, "search result"),
    ({"type": "hologram", "data": "x"}, "hologram"),
    ({"type": "a b\n[c]"}, "content"),
    ({"type": 5}, "content"),
    ({}, "content"),
    (5, "content"),
]


@pytest.mark.parametrize(("given", "what"), HIDDEN)
def test_a_line_stands_for_what_is_no_text(given: Any, what: str) -> None:
    found = read_part(given, "it")

    assert (found.text, bool(found.hidden)) == (line(what), True)
    with pytest.raises(
        PromptError, match=r"^it has content of type `\w+`: gpt-oss reads text only"
    ):
        read_part(given, "it", must_be_text=True)


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"type": "input_file", "file_id": "f"}, "file_id"),
        ({"type": "input_file", "file_url": "https://x.test/a"}, "file_url"),
        ({"type": "file", "file": {"file_id": "f"}}, "file_id"),
        ({"type": "document", "source": {"type": "url", "url": "x"}}, "url"),
    ],
)
def test_a_file_that_is_elsewhere_is_not_fetched(
    given: dict[str, Any], key: str
) -> None:
    assert read_part(given, "it").text.endswith("not shown: gpt-oss reads text]")
    with pytest.raises(PromptError, match=rf"^it has a file by `{key}`, which is not"):
        read_part(given, "it", must_be_text=True)


@pytest.mark.parametrize(
    "given",
    [{"type": "text"}, {"type": "text", "text": None}, {"type": "refusal"}],
)
def test_text_without_text_is_an_error(given: Any) -> None:
    with pytest.raises(PromptError, match=r"^it has content of type .* without text"):
        read_part(given, "it")
