"""Parts of a content, in the words of any API, as text.

gpt-oss reads text. Of a picture, a recording or a file stays a line in its place that
says so; documents and files of text, and what a search found, keep their text.

    part = read_part({"type": "image_url", ...}, "messages[1]")
    part.text        # "[image, not shown: gpt-oss reads text]"
    part.hidden      # "image_url"
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.json_text import Json

NOT_SHOWN = "[{}, not shown: gpt-oss reads text]"
PARAGRAPH_BREAK = "\n\n"
TEXTS = ("text", "input_text", "output_text", "summary_text")
THOUGHTS = ("thinking", "reasoning", "reasoning_text")
SEALED = "redacted_thinking"  # thoughts that only another server can read
PART_NAMES = {  # what a part is, where its type says it in other words
    "image_url": "image",
    "image_file": "image",
    "input_image": "image",
    "computer_screenshot": "image",
    "input_audio": "audio",
    "output_audio": "audio",
    "audio_url": "audio",
    "input_video": "video",
    "video_url": "video",
    "input_file": "file",
    "container_upload": "file",
    "search_result": "search result",
}
TYPE = re.compile(r"[A-Za-z][\w.-]{0,39}")  # a type that the model may be told
DATA_URL = re.compile(r"data:([\w.+/-]*)(?:;[\w.=+-]+)*?;base64,(.*)", re.DOTALL)
TEXT_TYPES = re.compile(r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|toml)")


@dataclass(frozen=True)
class ContentPart:
    """The text of a part; `hidden` is its type where that text only stands for it."""

    text: str
    hidden: str = ""
    is_thought: bool = False


def read_part(given: Any, where: str, *, must_be_text: bool = False) -> ContentPart:
    """Read a part of a content.

    Raises PromptError for one without the text that its type promises, and with
    `must_be_text` for what cannot be shown.
    """
    part: Json = given if isinstance(given, Mapping) else {}
    kind = part.get("type")
    if kind in TEXTS or kind in THOUGHTS or kind == "refusal":
        return _text(part, kind, where)
    if kind == SEALED:
        return ContentPart("", is_thought=True)
    text = _text_inside(part)
    if text is not None:
        return ContentPart(text)
    named = _type(part)
    if must_be_text:
        raise PromptError(
            f"{where} has content of type `{named}`: gpt-oss reads text only",
            where=where,
        )
    return ContentPart(_line(named), hidden=named)


def _type(given: Any) -> str:
    """The type of a part, if it is one that can be repeated."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    return kind if isinstance(kind, str) and TYPE.fullmatch(kind) else "content"


def _line(kind: str) -> str:
    """What stands for a part of a type that has no text."""
    return NOT_SHOWN.format(PART_NAMES.get(kind, kind))


def _text(part: Json, kind: str, where: str) -> ContentPart:
    """The text of a part that is text; of thoughts under any of their names."""
    for key in ("text",) if kind in TEXTS else (kind, "text"):
        value = part.get(key)
        if isinstance(value, list):  # thoughts in parts of their own
            value = "".join(filter(None, map(_own_text, value)))
        if isinstance(value, str):
            return ContentPart(value, is_thought=kind in THOUGHTS)
    raise PromptError(f"{where} has content of type `{kind}` without text", where=where)


def _text_inside(part: Json) -> str | None:
    """The text of a document, a file or another thing that has one."""
    source, file, resource = (part.get(key) for key in ("source", "file", "resource"))
    if part.get("type") == "document" and isinstance(source, Mapping):
        return _titled(_source_text(source), part, ("title", "context"))
    if part.get("type") == "search_result":
        return _titled(_inner_text(part.get("content")), part, ("title", "source"))
    if isinstance(resource, Mapping):
        return _titled(_own_text(resource), resource, ("uri",))
    file = file if isinstance(file, Mapping) else part
    if isinstance(data := file.get("file_data"), str):
        return _titled(_of_data_url(data), file, ("filename",))
    return _own_text(part)


def _source_text(source: Json) -> str | None:
    kind, data = source.get("type"), source.get("data")
    if kind == "content":
        return _inner_text(source.get("content"))
    if not isinstance(data, str):
        return None
    if kind == "base64":
        return _decoded(data, str(source.get("media_type")))
    return data if kind == "text" else None


def _inner_text(content: Any) -> str | None:
    """The text of a content inside a part; a line stands for what has none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for one in content:
        text = _own_text(one)
        texts.append(_line(_type(one)) if text is None else text)
    return PARAGRAPH_BREAK.join(texts)


def _own_text(given: Any) -> str | None:
    text = given.get("text") if isinstance(given, Mapping) else None
    return text if isinstance(text, str) else None


def _titled(text: str | None, given: Json, keys: tuple[str, ...]) -> str | None:
    """Put what a text is called before it."""
    if text is None:
        return None
    titles = [given[key] for key in keys if isinstance(given.get(key), str)]
    return PARAGRAPH_BREAK.join(filter(None, ["\n".join(filter(None, titles)), text]))


def _of_data_url(url: str) -> str | None:
    found = DATA_URL.fullmatch(url)
    return _decoded(found[2], found[1]) if found else None


def _decoded(data: str, media_type: str) -> str | None:
    """The text in base64 of a type that is text; None for any other."""
    if not TEXT_TYPES.fullmatch(media_type):
        return None
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError:
        return None
