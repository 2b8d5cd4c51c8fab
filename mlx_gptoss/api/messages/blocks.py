"""Convert Anthropic's messages of content blocks, as plain JSON, to Harmony messages.

Reasoning comes as `thinking`, or sealed in a signature; blocks of tools that providers
run are ignored and counted. Text of an assistant beside calls is a preamble. Results
are sorted behind their calls. Content that is not text is replaced by a line that says
so; in the newest user message it is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.errors import as_api_error, bad_request
from mlx_gptoss.api.ignored_names import PROVIDER_BLOCKS
from mlx_gptoss.api.messages.wire import InputMessage
from mlx_gptoss.api.sealed import unseal
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK, read_part
from mlx_gptoss.harmony.json_text import Json, json_text
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.harmony.render.prompt import can_continue
from mlx_gptoss.harmony.tool_results import Pairing

ERROR_PREFIX = "Error: "
TOOL_USE, TOOL_RESULT = "tool_use", "tool_result"
THINKING_TYPES = ("thinking", "redacted_thinking")


@dataclass
class ParsedMessages:
    """A conversation; `ignored` are types of blocks that the model does not see."""

    messages: list[m.Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_messages(
    messages: Sequence[InputMessage], restore: Restore | None = None
) -> ParsedMessages:
    """Read a conversation. Raises ApiError (400) that names the unreadable part.

    `restore` puts back the reasoning of calls that came without it.
    """
    parser = _BlockParser(restore)
    paths = [f"messages[{index}].content" for index in range(len(messages))]
    contents = [
        content_blocks(message.content, path)
        for message, path in zip(messages, paths, strict=True)
    ]
    newest = newest_user_message(messages, contents)
    try:
        for index, message in enumerate(messages):
            blocks, path = contents[index], paths[index]
            if message.role == "assistant":
                parser.assistant(blocks, path)
            else:
                parser.other(message.role, blocks, path, newest=index == newest)
        return ParsedMessages(parser.pairing.messages(), parser.ignored)
    except PromptError as error:
        raise as_api_error(error) from error


def newest_user_message(
    messages: Sequence[InputMessage], contents: Sequence[Sequence[Json]]
) -> int | None:
    """Return the index of the newest user message without tool results."""
    for index in range(len(messages) - 1, -1, -1):
        types = [block.get("type") for block in contents[index]]
        if messages[index].role == "user" and TOOL_RESULT not in types:
            return index
    return None


class _BlockParser:
    def __init__(self, restore: Restore | None) -> None:
        self.pairing = Pairing("tool_use_id")
        self.ignored: list[str] = []
        self._restore = restore

    def other(
        self, role: str, blocks: Sequence[Json], path: str, *, newest: bool
    ) -> None:
        """Add a user or system message: results of tools, and texts."""
        texts: list[str] = []
        for index, block in enumerate(blocks):
            place = f"{path}[{index}]"
            if block.get("type") == TOOL_RESULT:
                self._result(block, place)
            elif (text := self._text(block, place, must_be_text=newest)) is not None:
                texts.append(text)
        if texts:
            build = m.user if role == "user" else m.developer
            self.pairing.add_messages([build(PARAGRAPH_BREAK.join(texts))])

    def assistant(self, blocks: Sequence[Json], path: str) -> None:
        """Add a message of the model: reasoning, texts, calls."""
        out: list[m.Message] = []
        calls: list[tuple[str, str]] = []
        has_calls = any(block.get("type") == TOOL_USE for block in blocks)
        for index, block in enumerate(blocks):
            kind, place = block.get("type"), f"{path}[{index}]"
            if kind in THINKING_TYPES:
                if thinking := thinking_text(block):
                    out.append(m.reasoning(thinking))
            elif kind == TOOL_USE:
                name = required_string(block, "name", place)
                calls.append((required_string(block, "id", place), place))
                out.append(m.tool_call(name, json_text(block.get("input") or {})))
            elif text := self._text(block, place):
                if has_calls:
                    out.append(m.preamble(text))
                elif out and can_continue(out[-1]):  # an answer in several blocks
                    out[-1] = m.answer(out[-1].text + PARAGRAPH_BREAK + text)
                else:
                    out.append(m.answer(text))
        messages: Sequence[m.Message] = out
        if self._restore is not None and calls:
            messages = self._restore(out, [id for id, _ in calls])
        self.pairing.add_messages(messages, calls)

    def _result(self, block: Json, path: str) -> None:
        parts = content_blocks(block.get("content") or "", f"{path}.content")
        places = [f"{path}.content[{index}]" for index in range(len(parts))]
        texts = map(self._text, parts, places)
        text = PARAGRAPH_BREAK.join(one for one in texts if one)
        id = required_string(block, "tool_use_id", path)
        text = ERROR_PREFIX + text if block.get("is_error") else text
        self.pairing.add_result(text, id=id, where=f"{path}.tool_use_id")

    def _text(
        self, block: Json, path: str, *, must_be_text: bool = False
    ) -> str | None:
        """Return the text of a block or its replacement; None if it is ignored."""
        kind = block.get("type")
        if kind in PROVIDER_BLOCKS:
            self.ignored.append(str(kind))
            return None
        if kind in (TOOL_USE, TOOL_RESULT):
            raise bad_request(
                f"`{path}` is a `{kind}` block, which cannot be here", param=path
            )
        part = read_part(block, path, must_be_text=must_be_text)
        if part.hidden:
            self.ignored.append(part.hidden)
        return part.text


def content_blocks(content: Any, path: str) -> list[Json]:
    """Return the blocks of a content, which may be a string."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise bad_request(f"`{path}` is neither text nor a list of blocks", param=path)
    for index, block in enumerate(content):
        if not isinstance(block, Mapping):
            place = f"{path}[{index}]"
            raise bad_request(f"`{place}` is not a JSON object", param=place)
    return content


def system_text(system: Any) -> str:
    """Return the text of `system`, which may be a list of blocks."""
    texts = []
    for index, block in enumerate(content_blocks(system or "", "system")):
        text = block.get("text")
        if block.get("type") != "text" or not isinstance(text, str):
            place = f"system[{index}]"
            raise bad_request(f"`{place}` is not a text block", param=place)
        texts.append(text)
    return PARAGRAPH_BREAK.join(filter(None, texts))


def thinking_text(block: Json) -> str:
    """Return the reasoning of a thinking block, or "" if another server sealed it."""
    text = block.get("thinking")
    if isinstance(text, str) and text:
        return text
    sealed = block.get("signature") or block.get("data")
    return unseal(sealed) or "" if isinstance(sealed, str) else ""


def required_string(block: Json, key: str, path: str) -> str:
    value = block.get(key)
    if not isinstance(value, str) or not value:
        raise bad_request(f"`{path}.{key}` must be a string", param=f"{path}.{key}")
    return value
