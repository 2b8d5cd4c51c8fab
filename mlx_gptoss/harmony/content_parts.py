"""Convert the content parts of any API to text.

gpt-oss reads text only. An image, a recording or a binary file is replaced by a line
that says so; documents, text files, PDFs and search results keep their text.

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
from mlx_gptoss.harmony.pdf import PdfError, read_pdf

NOT_SHOWN = "[{}, not shown: gpt-oss reads text]"
PDF_NOT_SHOWN = "[PDF, not shown: it {}]"
PARAGRAPH_BREAK = "\n\n"
TEXTS = ("text", "input_text", "output_text", "summary_text")
REASONING = ("thinking", "reasoning", "reasoning_text")
REDACTED = "redacted_thinking"  # reasoning that only its own server can decrypt
PART_NAMES = {  # readable names of part types
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
TYPE = re.compile(r"[A-Za-z][\w.-]{0,39}")  # a type that is safe to show the model
DATA_URL = re.compile(r"data:([\w.+/-]*)(?:;[\w.=+-]+)*?;base64,(.*)", re.DOTALL)
PDF_TYPE = "application/pdf"
PDF_BASE64 = "JVBERi0"  # of `%PDF-`, with which every PDF begins
FILES = ("input_file", "file", "document")
ELSEWHERE = ("file_id", "file_url", "url")  # where a file may be instead
TEXT_TYPES = re.compile(r"text/.*|application/(?:.*\+)?(?:json|xml|yaml|toml)")


@dataclass(frozen=True)
class ContentPart:
    """The text of a part; `hidden` is its type if a line replaces its content."""

    text: str
    hidden: str = ""
    is_reasoning: bool = False


def read_part(given: Any, where: str, *, must_be_text: bool = False) -> ContentPart:
    """Convert one content part to text.

    Raises PromptError for a text part without text, and with `must_be_text` for any
    part that has no text form.
    """
    part: Json = given if isinstance(given, Mapping) else {}
    kind = part.get("type")
    if kind in TEXTS or kind in REASONING or kind == "refusal":
        return _text(part, kind, where)
    if kind == REDACTED:
        return ContentPart("", is_reasoning=True)
    named = _type(part)
    try:
        text = _text_inside(part)
    except PdfError as error:
        if must_be_text:
            raise PromptError(f"{where} has a PDF that {error}", where=where) from error
        return ContentPart(PDF_NOT_SHOWN.format(error), hidden=named)
    if text is not None:
        return ContentPart(text)
    if must_be_text:
        raise PromptError(_refusal(part, named, where), where=where)
    return ContentPart(_line(named), hidden=named)


def _refusal(part: Json, named: str, where: str) -> str:
    """Say why a part has no text."""
    if named in FILES:
        places = (part, part.get("file"), part.get("source"))
        given = [one for one in places if isinstance(one, Mapping)]
        for key in ELSEWHERE:
            if any(isinstance(one.get(key), str) for one in given):
                return (
                    f"{where} has a file by `{key}`, which is not fetched: send its "
                    "content"
                )
    return f"{where} has content of type `{named}`: gpt-oss reads text only"


def _type(given: Any) -> str:
    """Return the type of a part, or `content` if it is not safe to repeat."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    return kind if isinstance(kind, str) and TYPE.fullmatch(kind) else "content"


def _line(kind: str) -> str:
    """Return the line that replaces a part of a type without text."""
    return NOT_SHOWN.format(PART_NAMES.get(kind, kind))


def _text(part: Json, kind: str, where: str) -> ContentPart:
    """Return the text of a text part, or of reasoning under any of its names."""
    for key in ("text",) if kind in TEXTS else (kind, "text"):
        value = part.get(key)
        if isinstance(value, list):  # reasoning in parts of its own
            value = "".join(filter(None, map(_own_text, value)))
        if isinstance(value, str):
            return ContentPart(value, is_reasoning=kind in REASONING)
    raise PromptError(f"{where} has content of type `{kind}` without text", where=where)


def _text_inside(part: Json) -> str | None:
    """Return the text of a document, a file or another part that has one."""
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
    """Return the text of a content within a part; parts without text become lines."""
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
    """Prepend the titles of a text."""
    if text is None:
        return None
    titles = [given[key] for key in keys if isinstance(given.get(key), str)]
    return PARAGRAPH_BREAK.join(filter(None, ["\n".join(filter(None, titles)), text]))


def _of_data_url(url: str) -> str | None:
    """Return the text of a data URL, or of base64 alone if that is a PDF."""
    found = DATA_URL.fullmatch(url)
    return _decoded(found[2], found[1]) if found else _decoded(url, "")


def _decoded(data: str, media_type: str) -> str | None:
    """Decode base64 of a text type or a PDF; None for any other type.

    Raises PdfError for a PDF without text.
    """
    is_pdf = media_type == PDF_TYPE or data.startswith(PDF_BASE64)
    if not is_pdf and not TEXT_TYPES.fullmatch(media_type):
        return None
    try:
        content = base64.b64decode(data, validate=True)
        return read_pdf(content) if is_pdf else content.decode()
    except ValueError:
        return None
