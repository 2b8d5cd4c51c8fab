"""Anthropic's messages of content blocks, as plain JSON values, to Harmony messages.

Reasoning comes as `thinking`, or sealed in a signature; blocks of tools that others
run are passed over and counted. What an assistant said beside calls is no answer.
Results stand behind their calls, in the order of the calls. Of what is no text stays a
line in its place; in the newest message of the user it is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.errors import as_api_error, bad_request
from mlx_gptoss.api.ignored import PROVIDER_BLOCKS
from mlx_gptoss.api.messages.wire import InputMessage
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK, read_part
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.harmony.render.prompt import can_continue
from mlx_gptoss.harmony.tool_results import Pairing

ERROR_PREFIX = "Error: "
Json = Mapping[str, Any]
TOOL_USE, TOOL_RESULT = "tool_use", "tool_result"
THINKING_TYPES = ("thinking", "redacted_thinking")


@dataclass
class ParsedMessages:
    """What was read; `ignored` are the types of blocks that are not shown."""

    messages: list[m.Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_messages(
    given: Sequence[InputMessage], restore: Restore | None = None
) -> ParsedMessages:
    """Read a conversation. Raises ApiError (400) that names what cannot be read.

    `restore` puts back the reasoning of calls that came without it.
    """
    reader = _BlockParser(restore)
    read = [
        content_blocks(x.content, f"messages[{n}].content") for n, x in enumerate(given)
    ]
    newest = newest_user_message(given, read)
    try:
        for at, (one, blocks) in enumerate(zip(given, read, strict=True)):
            where = f"messages[{at}].content"
            if one.role == "assistant":
                reader.assistant(blocks, where)
            else:
                reader.others(one.role, blocks, where, newest=at == newest)
        return ParsedMessages(reader.pairing.messages(), reader.ignored)
    except PromptError as error:
        raise as_api_error(error) from error


def newest_user_message(
    given: Sequence[InputMessage], read: Sequence[Sequence[Json]]
) -> int | None:
    """The place of what the user said last; what comes with results is no question."""
    for at in range(len(given) - 1, -1, -1):
        kinds = [block.get("type") for block in read[at]]
        if given[at].role == "user" and TOOL_RESULT not in kinds:
            return at
    return None


class _BlockParser:
    def __init__(self, restore: Restore | None) -> None:
        self.pairing = Pairing("tool_use_id")
        self.ignored: list[str] = []
        self._restore = restore

    def others(
        self, role: str, blocks: Sequence[Json], where: str, *, newest: bool
    ) -> None:
        """Take what a user says: results of tools, and texts."""
        texts: list[str] = []
        for at, block in enumerate(blocks):
            place = f"{where}[{at}]"
            if block.get("type") == TOOL_RESULT:
                self._result(block, place)
            elif (text := self._text(block, place, must_be_text=newest)) is not None:
                texts.append(text)
        if texts:
            says = m.user if role == "user" else m.developer
            self.pairing.add_messages([says(PARAGRAPH_BREAK.join(texts))])

    def assistant(self, blocks: Sequence[Json], where: str) -> None:
        """Take what the model said: thoughts, texts, calls."""
        out: list[m.Message] = []
        calls: list[tuple[str, str]] = []
        called = any(block.get("type") == TOOL_USE for block in blocks)
        for at, block in enumerate(blocks):
            kind, place = block.get("type"), f"{where}[{at}]"
            if kind in THINKING_TYPES:
                if thought := thinking_text(block):
                    out.append(m.reasoning(thought))
            elif kind == TOOL_USE:
                name, id = (
                    required_string(block, "name", place),
                    required_string(block, "id", place),
                )
                calls.append((id, place))
                out.append(m.tool_call(name, json_text(block.get("input") or {})))
            elif text := self._text(block, place):
                if called:
                    out.append(m.preamble(text))
                elif out and can_continue(out[-1]):  # an answer in several blocks
                    out[-1] = m.answer(out[-1].text + PARAGRAPH_BREAK + text)
                else:
                    out.append(m.answer(text))
        said: Sequence[m.Message] = out
        if self._restore is not None and calls:
            said = self._restore(out, [id for id, _ in calls])
        self.pairing.add_messages(said, calls)

    def _result(self, block: Json, where: str) -> None:
        parts = content_blocks(block.get("content") or "", f"{where}.content")
        places = [f"{where}.content[{at}]" for at in range(len(parts))]
        texts = map(self._text, parts, places)
        text = PARAGRAPH_BREAK.join(one for one in texts if one)
        id = required_string(block, "tool_use_id", where)
        text = ERROR_PREFIX + text if block.get("is_error") else text
        self.pairing.add_result(text, id=id, where=f"{where}.tool_use_id")

    def _text(
        self, block: Json, where: str, *, must_be_text: bool = False
    ) -> str | None:
        """The text of a block, or what stands for it; None if it is passed over."""
        kind = block.get("type")
        if kind in PROVIDER_BLOCKS:
            self.ignored.append(str(kind))
            return None
        if kind in (TOOL_USE, TOOL_RESULT):
            raise bad_request(f"`{where}` is no block that belongs here", param=where)
        part = read_part(block, where, must_be_text=must_be_text)
        if part.hidden:
            self.ignored.append(part.hidden)
        return part.text


def content_blocks(content: Any, where: str) -> list[Json]:
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
    for at, block in enumerate(content_blocks(given or "", "system")):
        text = block.get("text")
        if block.get("type") != "text" or not isinstance(text, str):
            place = f"system[{at}]"
            raise bad_request(f"`{place}` is no text block", param=place)
        texts.append(text)
    return PARAGRAPH_BREAK.join(filter(None, texts))


def thinking_text(block: Json) -> str:
    """The reasoning in a thinking block, sealed or not; "" where it is not ours."""
    text = block.get("thinking")
    if isinstance(text, str) and text:
        return text
    sealed = block.get("signature") or block.get("data")
    return unseal(sealed) or "" if isinstance(sealed, str) else ""


def required_string(block: Json, key: str, where: str) -> str:
    value = block.get(key)
    if not isinstance(value, str) or not value:
        raise bad_request(f"`{where}.{key}` must be a text", param=f"{where}.{key}")
    return value
