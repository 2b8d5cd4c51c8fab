"""Items of an input, as plain JSON values, to Harmony messages.

    read = read_items(items)
    read.instructions, read.messages, read.ignored

An item is what somebody said, what the model thought, a call, or the result of one.
Items of tools that others run (`web_search_call`) are passed over and counted.
`system` and `developer` messages at the beginning are instructions; later ones stay
where they are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.server.errors import bad_request
from mlx_gptoss.server.responses.names import namespace_of
from mlx_gptoss.server.responses.offer import Offer, found_text
from mlx_gptoss.server.sealed import unseal, unsealed_parts

INSTRUCTIONS = ("system", "developer")
TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "refusal")
BETWEEN = "\n\n"
COMMENTARY = "commentary"
CALLS = ("function_call", "custom_tool_call", "tool_search_call")
Json = Mapping[str, Any]
Find = Callable[[str], Json | None]


@dataclass
class Read:
    """What was read; `ignored` are the types of items that were passed over."""

    instructions: list[str] = field(default_factory=list)
    messages: list[m.Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_items(
    items: Sequence[Any],
    *,
    offer: Offer | None = None,
    restore: Restore | None = None,
    find: Find | None = None,
) -> Read:
    """Read a whole input, that of earlier responses first.

    `offer` has the names of tools, and those that items bring; `restore` puts back
    the reasoning of calls that came without it; `find` returns the item that an
    `item_reference` means. Raises ApiError (400) that names the item which cannot be
    read.
    """
    reader = _Reader(items, offer or Offer(), restore, find)
    for at in range(len(items)):
        reader.take(at)
    reader.end_turn()
    return reader.read


class _Reader:
    def __init__(
        self,
        items: Sequence[Any],
        offer: Offer,
        restore: Restore | None,
        find: Find | None,
    ) -> None:
        self.read = Read()
        self._items = items
        self._offer = offer
        self._restore = restore
        self._find = find
        self._names: dict[str, str] = {}  # of the tools, by the ids of their calls
        self._turn: list[m.Message] = []  # what the model said, until others speak
        self._calls: list[str] = []  # the ids of its calls

    def take(self, at: int) -> None:
        item, where = self._resolved(self._items[at], f"input[{at}]"), f"input[{at}]"
        kind = kind_of(item)
        reads = READERS.get(kind)
        if reads is None:
            self.read.ignored.append(kind)
        elif kind == "message" and item.get("role") == "assistant":
            self._said(item, at)
        else:
            reads(self, item, where)

    def end_turn(self) -> None:
        """Keep what the model said, with its reasoning where that is known."""
        said: Sequence[m.Message] = self._turn
        if self._restore is not None and self._calls:
            said = self._restore(said, self._calls)
        self.read.messages += said
        self._turn, self._calls = [], []

    def message(self, item: Json, where: str) -> None:
        role, text = item.get("role"), text_of(item.get("content"), where)
        self.end_turn()
        if role == "user":
            self.read.messages.append(m.user(text))
        elif role not in INSTRUCTIONS:
            raise bad_request(
                f"`{where}` has an unknown `role`: use user, assistant, system or "
                "developer",
                param=where,
            )
        elif self.read.messages:
            self.read.messages.append(m.developer(text))
        elif text:
            self.read.instructions.append(text)

    def reasoning(self, item: Json, where: str) -> None:
        content, sealed = item.get("content"), item.get("encrypted_content")
        text = text_of(content, where) if content else ""
        if not text and isinstance(sealed, str):
            text = unseal(sealed) or ""
        if text:
            self._turn.append(m.reasoning(text))

    def function_call(self, item: Json, where: str) -> None:
        name, arguments = self._begin_call(item, where), item.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json_text(arguments)
        self._turn.append(m.tool_call(name, arguments))

    def custom_tool_call(self, item: Json, where: str) -> None:
        name = self._begin_call(item, where)
        self._turn.append(m.text_call(name, text_field(item, "input", where)))

    def additional_tools(self, item: Json, where: str) -> None:
        """Tools that came later: where they are first spoken of, not in the opening."""
        if found := self._offer.found.get(where):
            self.end_turn()
            self.read.messages.append(m.developer(tools=found))

    def tool_search_call(self, item: Json, where: str) -> None:
        if not item.get("call_id"):  # a server's own search: its result is enough
            self.read.ignored.append("tool_search_call")
            return
        name = self._begin_call(item, where, self._offer.names.search)
        self._turn.append(m.tool_call(name, json_text(item.get("arguments") or {})))

    def tool_search_output(self, item: Json, where: str) -> None:
        name = self._names.get(str(item.get("call_id")))
        if name is None:
            self.additional_tools(item, where)
            return
        self.end_turn()
        text = found_text(self._offer.found.get(where, ()))
        self.read.messages.append(m.tool_result(name, text))

    def agent_message(self, item: Json, where: str) -> None:
        """What another agent of the client tells this one, which is like a user's."""
        self.end_turn()
        content = unsealed_parts(item.get("content"))
        self.read.messages.append(m.user(text_of(content, where)))

    def output(self, item: Json, where: str) -> None:
        name = self._names.get(str(item.get("call_id"))) or self._named(item)
        if name is None:
            raise bad_request(
                f"No tool call found for `{where}`: give the `call_id` of an earlier "
                "call",
                param=where,
            )
        text = text_of(item.get("output"), where)
        self.end_turn()
        self.read.messages.append(m.tool_result(name, text))

    def _said(self, item: Json, at: int) -> None:
        """What the model told the user: before calls it is no answer."""
        text = text_of(item.get("content"), f"input[{at}]")
        if text:
            before = item.get("phase") == COMMENTARY or self._call_follows(at)
            self._turn.append(m.preamble(text) if before else m.answer(text))

    def _call_follows(self, at: int) -> bool:
        """Whether the next thing the model did was a call."""
        for item in self._items[at + 1 :]:
            kind = kind_of(item) if isinstance(item, Mapping) else ""
            if kind in CALLS:
                return True
            if kind != "reasoning":
                return False
        return False

    def _named(self, item: Json) -> str | None:
        """The tool that an item names, as the model reads it."""
        name = item.get("name")
        if not isinstance(name, str) or not name:
            return None
        return self._offer.names.shown(name, namespace_of(item))

    def _begin_call(self, item: Json, where: str, name: str | None = None) -> str:
        name = name or self._named(item) or text_field(item, "name", where)
        call_id = text_field(item, "call_id", where)
        self._names[call_id] = name
        self._calls.append(call_id)
        return name

    def _resolved(self, item: Any, where: str) -> Json:
        if not isinstance(item, Mapping):
            raise bad_request(f"`{where}` is no JSON object", param=where)
        if not is_reference(item):
            return item
        found = self._find(str(item.get("id"))) if self._find else None
        if found is None:
            raise bad_request(
                f"`{where}` refers to an item that is not stored here: send the item",
                param=where,
            )
        return found


READERS: dict[str, Callable[[_Reader, Json, str], None]] = {
    "message": _Reader.message,
    "reasoning": _Reader.reasoning,
    "function_call": _Reader.function_call,
    "custom_tool_call": _Reader.custom_tool_call,
    "function_call_output": _Reader.output,
    "custom_tool_call_output": _Reader.output,
    "additional_tools": _Reader.additional_tools,
    "tool_search_call": _Reader.tool_search_call,
    "tool_search_output": _Reader.tool_search_output,
    "agent_message": _Reader.agent_message,
}


def kind_of(item: Json) -> str:
    """The type of an item; a message may leave it out, a reference has an id only."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    if "role" in item:
        return "message"
    return "item_reference" if item.keys() == {"id"} else ""


def is_reference(item: Any) -> bool:
    return isinstance(item, Mapping) and kind_of(item) == "item_reference"


def with_parts(item: Json) -> dict[str, Any]:
    """Return an item as it is listed: the text of a message as a list of parts."""
    content = item.get("content")
    if kind_of(item) != "message" or not isinstance(content, str):
        return dict(item)
    part: Json = {"type": "input_text", "text": content}
    if item.get("role") == "assistant":
        part = {"type": "output_text", "text": content, "annotations": []}
    return {**item, "content": [part]}


def text_of(content: Any, where: str) -> str:
    """The text of a content or an output: a string, or parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise bad_request(
            f"the content of `{where}` is no text and no list of parts", param=where
        )
    return BETWEEN.join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get("refusal" if kind == "refusal" else "text") if kind else None
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise bad_request(
            f"`{where}` has a part that is no text: gpt-oss reads text only",
            param=where,
        )
    return text


def text_field(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or (name != "input" and not value):
        raise bad_request(f"`{where}.{name}` must be a text", param=f"{where}.{name}")
    return value
