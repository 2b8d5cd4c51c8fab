"""Items of an input, as plain JSON values, to Harmony messages.

    read = read_items(items)
    read.instructions, read.messages, read.ignored

An item is what somebody said, what the model thought, a call, or the result of one.
Items of tools that others run (`web_search_call`) are passed over and counted.
`system` and `developer` messages at the beginning are instructions; later ones stay
where they are. Results stand behind their calls, in the order of the calls. Of what is
no text stays a line in its place; in the newest message of the user it is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.errors import as_api_error, bad_request
from mlx_gptoss.api.responses.tool_names import namespace_of
from mlx_gptoss.api.responses.tools import (
    ResponsesTools,
    item_path,
    search_result_text,
)
from mlx_gptoss.api.sealed import unseal, unseal_parts
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK, ContentPart, read_part
from mlx_gptoss.harmony.json_text import json_text
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.harmony.render.prompt import can_continue
from mlx_gptoss.harmony.tool_results import Pairing

INSTRUCTIONS = ("system", "developer")
COMMENTARY = "commentary"
CONTINUES_ANSWER = (
    "continues"  # marks what a response said behind an answer that had begun
)
CALL_TYPES = ("function_call", "custom_tool_call", "tool_search_call")
Json = Mapping[str, Any]
FindItem = Callable[[str], Json | None]


@dataclass
class ParsedItems:
    """What was read; `ignored` are the types of items and parts that are not shown."""

    instructions: list[str] = field(default_factory=list)
    messages: list[m.Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_items(
    items: Sequence[Any],
    *,
    earlier: int = 0,
    offer: ResponsesTools | None = None,
    restore: Restore | None = None,
    find: FindItem | None = None,
) -> ParsedItems:
    """Read a whole input; its first items are `earlier`, of other responses.

    `offer` has the names of tools, and those that items bring; `restore` puts back
    the reasoning of calls that came without it; `find` returns the item that an
    `item_reference` means. Raises ApiError (400) that names the item which cannot be
    read.
    """
    places = [item_path(at, earlier) for at in range(len(items))]
    reader = _ItemParser(items, places, offer or ResponsesTools(), restore, find)
    try:
        for at in range(len(items)):
            reader.take(at)
        return reader.end()
    except PromptError as error:
        raise as_api_error(error) from error


class _ItemParser:
    def __init__(
        self,
        items: Sequence[Any],
        places: Sequence[str],
        offer: ResponsesTools,
        restore: Restore | None,
        find: FindItem | None,
    ) -> None:
        self.read = ParsedItems()
        self._offer = offer
        self._restore = restore
        self._find = find
        self._places = places
        self._items = list(map(self._resolved, items, places))
        asked = [n for n, item in enumerate(self._items) if is_user_message(item)]
        self._newest = places[asked[-1]] if asked else ""  # what the user said last
        self._pairing = Pairing("call_id")
        self._turn: list[m.Message] = []  # what the model said, until others speak
        self._calls: list[tuple[str, str]] = []  # ids and places of its calls
        self._searches: set[str] = set()  # ids of calls that search for tools
        self._others: set[str] = set()  # ids of calls that are passed over

    def take(self, at: int) -> None:
        item, where = self._items[at], self._places[at]
        kind = item_type(item)
        reads = ITEM_PARSERS.get(kind)
        if reads is None:
            self.read.ignored.append(kind)
            if call_id := item.get("call_id"):
                self._others.add(str(call_id))
        elif kind == "message" and item.get("role") == "assistant":
            self._said(item, at)
        else:
            reads(self, item, where)

    def end(self) -> ParsedItems:
        self._end_turn()
        self.read.messages = self._pairing.messages()
        return self.read

    def _end_turn(self) -> None:
        """Keep what the model said, with its reasoning where that is known."""
        said: Sequence[m.Message] = self._turn
        if self._restore is not None and self._calls:
            said = self._restore(said, [id for id, _ in self._calls])
        self._pairing.add_messages(said, self._calls)
        self._turn, self._calls = [], []

    def _hear(self, message: m.Message) -> None:
        """Keep what somebody else said."""
        self._end_turn()
        self._pairing.add_messages([message])

    def message(self, item: Json, where: str) -> None:
        role = item.get("role")
        if role != "user" and role not in INSTRUCTIONS:
            raise bad_request(
                f"`{where}` has an unknown `role`: use user, assistant, system or "
                "developer",
                param=where,
            )
        newest = where == self._newest
        text = self._text(item.get("content"), where, must_be_text=newest)
        if role == "user":
            self._hear(m.user(text))
        elif self._turn or self._pairing.has_messages:
            self._hear(m.developer(text))
        elif text:
            self.read.instructions.append(text)

    def reasoning(self, item: Json, where: str) -> None:
        sealed, text = item.get("encrypted_content"), ""
        if content := item.get("content"):
            text = self._text(content, where)
        elif isinstance(sealed, str) and sealed:  # not ours: there is nothing to read
            text = unseal(sealed) or ""
        elif summary := item.get("summary"):
            text = self._text(summary, where)
        if text:
            self._turn.append(m.reasoning(text))

    def function_call(self, item: Json, where: str) -> None:
        name, arguments = self._begin_call(item, where), item.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json_text(arguments)
        self._turn.append(m.tool_call(name, arguments))

    def custom_tool_call(self, item: Json, where: str) -> None:
        name = self._begin_call(item, where)
        self._turn.append(m.text_call(name, required_string(item, "input", where)))

    def additional_tools(self, item: Json, where: str) -> None:
        """Tools that came later: where they are first spoken of, not in the opening."""
        if found := self._offer.by_item.get(where):
            self._hear(m.developer(tools=found))

    def tool_search_call(self, item: Json, where: str) -> None:
        if not item.get("call_id"):  # a server's own search: its result is enough
            self.read.ignored.append("tool_search_call")
            return
        name = self._begin_call(item, where, self._offer.names.search)
        self._searches.add(str(item["call_id"]))
        self._turn.append(m.tool_call(name, json_text(item.get("arguments") or {})))

    def tool_search_output(self, item: Json, where: str) -> None:
        call_id = str(item.get("call_id"))
        if call_id not in self._searches:
            self.additional_tools(item, where)
            return
        text = search_result_text(self._offer.by_item.get(where, ()))
        self._end_turn()
        self._pairing.add_result(text, id=call_id, where=where)

    def agent_message(self, item: Json, where: str) -> None:
        """What another agent of the client tells this one, which is like a user's."""
        content = unseal_parts(item.get("content"))
        self._hear(m.user(self._text(content, where)))

    def output(self, item: Json, where: str) -> None:
        id = item.get("call_id")
        if str(id) in self._others:
            self.read.ignored.append(item_type(item))
            return
        text = self._text(item.get("output"), where)
        self._end_turn()
        self._pairing.add_result(
            text,
            id=None if id is None else str(id),
            name=self._named(item),
            where=where,
        )

    def _said(self, item: Json, at: int) -> None:
        """What the model told the user: before calls it is no answer."""
        parts = content_parts(item.get("content"), self._places[at])
        self._note(parts)
        thoughts = [part.text for part in parts if part.is_thought and part.text]
        if thoughts:
            self._turn.append(m.reasoning(PARAGRAPH_BREAK.join(thoughts)))
        if text := PARAGRAPH_BREAK.join(
            part.text for part in parts if not part.is_thought
        ):
            before = item.get("phase") == COMMENTARY or self._call_follows(at)
            said = m.preamble(text) if before else m.answer(text)
            if (
                item.get(CONTINUES_ANSWER)
                and self._turn
                and can_continue(self._turn[-1])
            ):
                said = m.answer(self._turn.pop().text + text)
            self._turn.append(said)

    def _text(self, content: Any, where: str, *, must_be_text: bool = False) -> str:
        parts = content_parts(content, where, must_be_text=must_be_text)
        self._note(parts)
        return PARAGRAPH_BREAK.join(part.text for part in parts)

    def _note(self, parts: Sequence[ContentPart]) -> None:
        self.read.ignored += [part.hidden for part in parts if part.hidden]

    def _call_follows(self, at: int) -> bool:
        """Whether the next thing the model did was a call."""
        for item in self._items[at + 1 :]:
            kind = item_type(item) if isinstance(item, Mapping) else ""
            if kind in CALL_TYPES:
                return True
            if kind != "reasoning":
                return False
        return False

    def _named(self, item: Json) -> str | None:
        """The tool that an item names, as the model reads it."""
        name = item.get("name")
        if not isinstance(name, str) or not name:
            return None
        return self._offer.names.model_name(name, namespace_of(item))

    def _begin_call(self, item: Json, where: str, name: str | None = None) -> str:
        name = name or self._named(item) or required_string(item, "name", where)
        call_id = required_string(item, "call_id", where)
        self._calls.append((call_id, where))
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


ITEM_PARSERS: dict[str, Callable[[_ItemParser, Json, str], None]] = {
    "message": _ItemParser.message,
    "reasoning": _ItemParser.reasoning,
    "function_call": _ItemParser.function_call,
    "custom_tool_call": _ItemParser.custom_tool_call,
    "function_call_output": _ItemParser.output,
    "custom_tool_call_output": _ItemParser.output,
    "additional_tools": _ItemParser.additional_tools,
    "tool_search_call": _ItemParser.tool_search_call,
    "tool_search_output": _ItemParser.tool_search_output,
    "agent_message": _ItemParser.agent_message,
}


def item_type(item: Json) -> str:
    """The type of an item; a message may leave it out, a reference has an id only."""
    kind = item.get("type")
    if isinstance(kind, str):
        return kind
    if "role" in item:
        return "message"
    return "item_reference" if item.keys() == {"id"} else ""


def is_reference(item: Any) -> bool:
    return isinstance(item, Mapping) and item_type(item) == "item_reference"


def listed_item(item: Json) -> dict[str, Any]:
    """Return an item as it is listed: the text of a message as a list of parts."""
    item = {key: value for key, value in item.items() if key != CONTINUES_ANSWER}
    content = item.get("content")
    if item_type(item) != "message" or not isinstance(content, str):
        return item
    part: Json = {"type": "input_text", "text": content}
    if item.get("role") == "assistant":
        part = {"type": "output_text", "text": content, "annotations": []}
    return {**item, "content": [part]}


def is_user_message(item: Json) -> bool:
    return item_type(item) == "message" and item.get("role") == "user"


def content_parts(
    content: Any, where: str, *, must_be_text: bool = False
) -> list[ContentPart]:
    """The parts of a content or an output, which may be one text."""
    if content is None or isinstance(content, str):
        return [ContentPart(content)] if content else []
    if not isinstance(content, list):
        raise bad_request(
            f"the content of `{where}` is no text and no list of parts", param=where
        )
    return [
        ContentPart(part)
        if isinstance(part, str)
        else read_part(part, where, must_be_text=must_be_text)
        for part in content
    ]


def required_string(item: Json, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or (name != "input" and not value):
        raise bad_request(f"`{where}.{name}` must be a text", param=f"{where}.{name}")
    return value
