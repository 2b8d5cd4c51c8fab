"""Anthropic's messages of content blocks, as plain JSON values, to Harmony messages.

Reasoning comes as `thinking`, or sealed in a signature; blocks of tools that others
run are passed over and counted. What an assistant said before calls is no answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.server.errors import bad_request
from mlx_gptoss.server.schema.messages import InputMessage
from mlx_gptoss.server.sealed import unseal

BETWEEN = "\n\n"
FAILED = "Error: "
Json = Mapping[str, Any]
IMAGES = ("image", "document", "file")
OTHERS = (  # blocks of tools that Anthropic runs
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "container_upload",
    "tool_reference",
)


@dataclass
class Read:
    """What was read; `ignored` are the types of blocks that were passed over."""

    messages: list[m.Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_messages(
    given: Sequence[InputMessage], restore: Restore | None = None
) -> Read:
    """Read a conversation. Raises ApiError (400) that names what cannot be read.

    `restore` puts back the reasoning of calls that came without it.
    """
    reader = _Reader(restore)
    for at, one in enumerate(given):
        blocks = blocks_of(one.content, f"messages[{at}].content")
        if one.role == "assistant":
            reader.assistant(blocks, f"messages[{at}].content")
        else:
            reader.others(one.role, blocks, f"messages[{at}].content")
    return reader.read


class _Reader:
    def __init__(self, restore: Restore | None) -> None:
        self.read = Read()
        self._restore = restore
        self._names: dict[str, str] = {}  # of the tools, by the ids of their calls

    def others(self, role: str, blocks: Sequence[Json], where: str) -> None:
        """Take what a user says: results of tools, and texts."""
        texts: list[str] = []
        for at, block in enumerate(blocks):
            if block.get("type") == "tool_result":
                self._speak(role, texts)
                self.read.messages.append(self._result(block, f"{where}[{at}]"))
            elif (text := self._text(block, f"{where}[{at}]")) is not None:
                texts.append(text)
        self._speak(role, texts)

    def assistant(self, blocks: Sequence[Json], where: str) -> None:
        """Take what the model said: thoughts, texts, calls."""
        out: list[m.Message] = []
        calls: list[str] = []
        last_call = max(
            (n for n, one in enumerate(blocks) if one.get("type") == "tool_use"),
            default=-1,
        )
        for at, block in enumerate(blocks):
            kind, place = block.get("type"), f"{where}[{at}]"
            if kind in ("thinking", "redacted_thinking"):
                if thought := thought_of(block):
                    out.append(m.reasoning(thought))
            elif kind == "tool_use":
                name, id = named(block, "name", place), named(block, "id", place)
                self._names[id] = name
                calls.append(id)
                out.append(m.tool_call(name, json_text(block.get("input") or {})))
            elif text := self._text(block, place):
                out.append(m.preamble(text) if at < last_call else m.answer(text))
        if self._restore is not None and calls:
            out = list(self._restore(out, calls))
        self.read.messages += out

    def _speak(self, role: str, texts: list[str]) -> None:
        """Say what was collected, as one message."""
        if texts:
            text = BETWEEN.join(texts)
            says = m.user if role == "user" else m.developer
            self.read.messages.append(says(text))
            texts.clear()

    def _result(self, block: Json, where: str) -> m.Message:
        name = self._names.get(named(block, "tool_use_id", where))
        if name is None:
            raise bad_request(
                f"`{where}.tool_use_id` is of no `tool_use` block before it",
                param=f"{where}.tool_use_id",
            )
        parts = blocks_of(block.get("content") or "", f"{where}.content")
        texts = [self._text(one, f"{where}.content") for one in parts]
        text = BETWEEN.join(one for one in texts if one)
        return m.tool_result(name, FAILED + text if block.get("is_error") else text)

    def _text(self, block: Json, where: str) -> str | None:
        """The text of a block; None for one that is passed over."""
        kind, text = block.get("type"), block.get("text")
        if kind == "text" and isinstance(text, str):
            return text
        if kind == "document" and (text := plain_document(block)) is not None:
            return text
        if kind in IMAGES:
            raise bad_request(
                f"`{where}` is of type `{kind}`: gpt-oss reads text only", param=where
            )
        if kind in OTHERS:
            self.read.ignored.append(str(kind))
            return None
        raise bad_request(f"`{where}` is no block that belongs here", param=where)


def blocks_of(content: Any, where: str) -> list[Json]:
    """The blocks of a content, which may be one text."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise bad_request(f"`{where}` is no text and no list of blocks", param=where)
    for at, block in enumerate(content):
        if not isinstance(block, Mapping):
            place = f"{where}[{at}]"
            raise bad_request(f"`{place}` is no JSON object", param=place)
    return content


def system_text(given: Any) -> str:
    """The text of `system`, which may come in blocks."""
    texts = []
    for at, block in enumerate(blocks_of(given or "", "system")):
        text = block.get("text")
        if block.get("type") != "text" or not isinstance(text, str):
            place = f"system[{at}]"
            raise bad_request(f"`{place}` is no text block", param=place)
        texts.append(text)
    return BETWEEN.join(filter(None, texts))


def thought_of(block: Json) -> str:
    """The reasoning in a thinking block, sealed or not; "" where it is not ours."""
    text = block.get("thinking")
    if isinstance(text, str) and text:
        return text
    sealed = block.get("signature") or block.get("data")
    return unseal(sealed) or "" if isinstance(sealed, str) else ""


def plain_document(block: Json) -> str | None:
    """The text of a document that is plain text."""
    source = block.get("source")
    if not isinstance(source, Mapping) or source.get("type") != "text":
        return None
    text = source.get("data")
    return text if isinstance(text, str) else None


def named(block: Json, key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str) or not value:
        raise bad_request(f"`{where}.{key}` must be a text", param=f"{where}.{key}")
    return value
