"""Convert input items, as plain JSON, to Harmony messages.

    read = read_items(items)
    read.instructions, read.messages, read.ignored

An item is a message, reasoning, a call, or the result of one. Items of tools that
providers run (`web_search_call`) are ignored and counted. `system` and `developer`
messages at the beginning are instructions; later ones stay in place. Results are sorted
behind their calls. Content that is not text is replaced by a line that says so; in the
newest user message it is refused. A summary that compaction made is read as the user's.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlx_gptoss.api.errors import as_api_error, bad_request
from mlx_gptoss.api.responses.item_fields import (
    CONTINUES_ANSWER,
    content_parts,
    is_reference,
    is_user_message,
    item_type,
    required_string,
)
from mlx_gptoss.api.responses.tool_names import namespace_of
from mlx_gptoss.api.responses.tools import (
    INSTRUCTION_ROLES,
    ResponsesTools,
    item_path,
    search_result_text,
)
from mlx_gptoss.api.sealed import unseal, unseal_parts
from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK, ContentPart
from mlx_gptoss.harmony.json_text import Json, json_text
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.harmony.render.prompt import can_continue
from mlx_gptoss.harmony.tool_results import Pairing

COMMENTARY = "commentary"
SUMMARY_HEADING = "Summary of our conversation so far:\n\n"
CALL_TYPES = ("function_call", "custom_tool_call", "tool_search_call")
FindItem = Callable[[str], Json | None]


@dataclass
class ParsedItems:
    """The input; `ignored` are types of items and parts that the model does not see."""

    instructions: list[str] = field(default_factory=list)
    messages: list[m.Message] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def read_items(
    items: Sequence[Any],
    *,
    earlier: int = 0,
    tools: ResponsesTools | None = None,
    restore: Restore | None = None,
    find: FindItem | None = None,
    skip: Collection[int] = (),
) -> ParsedItems:
    """Read a whole input; the first `earlier` items are of previous responses.

    `tools` has the names of tools, and the tools that items add; `restore` puts back
    the reasoning of calls that came without it; `find` returns the item of an
    `item_reference`; `skip` are the items that a summary stands for. Raises ApiError
    (400) that names an unreadable item.
    """
    paths = [item_path(index, earlier) for index in range(len(items))]
    parser = _ItemParser(items, paths, tools or ResponsesTools(), restore, find)
    try:
        for index in range(len(items)):
            if index not in skip:
                parser.feed(index)
        return parser.finish()
    except PromptError as error:
        raise as_api_error(error) from error


class _ItemParser:
    def __init__(
        self,
        items: Sequence[Any],
        paths: Sequence[str],
        tools: ResponsesTools,
        restore: Restore | None,
        find: FindItem | None,
    ) -> None:
        self.parsed = ParsedItems()
        self._tools = tools
        self._restore = restore
        self._find = find
        self._paths = paths
        self._items = list(map(self._resolve, items, paths))
        questions = [n for n, item in enumerate(self._items) if is_user_message(item)]
        self._newest_question = paths[questions[-1]] if questions else ""
        self._pairing = Pairing("call_id")
        self._turn: list[m.Message] = []  # the model's messages since the last other
        self._calls: list[tuple[str, str]] = []  # ids and paths of the calls in it
        self._search_ids: set[str] = set()  # of calls of the tool search
        self._ignored_ids: set[str] = set()  # of calls that are ignored

    def feed(self, index: int) -> None:
        item, path = self._items[index], self._paths[index]
        kind = item_type(item)
        parse = ITEM_PARSERS.get(kind)
        if parse is None:
            self.parsed.ignored.append(kind)
            if call_id := item.get("call_id"):
                self._ignored_ids.add(str(call_id))
        elif kind == "message" and item.get("role") == "assistant":
            self._assistant_message(item, index)
        else:
            parse(self, item, path)

    def finish(self) -> ParsedItems:
        self._end_turn()
        self.parsed.messages = self._pairing.messages()
        return self.parsed

    def _end_turn(self) -> None:
        """Keep the model's messages, with their reasoning if it is remembered."""
        messages: Sequence[m.Message] = self._turn
        if self._restore is not None and self._calls:
            messages = self._restore(messages, [id for id, _ in self._calls])
        self._pairing.add_messages(messages, self._calls)
        self._turn, self._calls = [], []

    def _add_other(self, message: m.Message) -> None:
        """Add a message that is not the model's."""
        self._end_turn()
        self._pairing.add_messages([message])

    def message(self, item: Json, path: str) -> None:
        role = item.get("role")
        if role != "user" and role not in INSTRUCTION_ROLES:
            raise bad_request(
                f"`{path}` has an unknown `role`: use user, assistant, system or "
                "developer",
                param=path,
            )
        newest = path == self._newest_question
        text = self._text(item.get("content"), path, must_be_text=newest)
        if role == "user":
            self._add_other(m.user(text))
        elif self._turn or self._pairing.has_messages:
            self._add_other(m.developer(text))
        elif text:
            self.parsed.instructions.append(text)

    def reasoning(self, item: Json, path: str) -> None:
        sealed, text = item.get("encrypted_content"), ""
        if content := item.get("content"):
            text = self._text(content, path)
        elif isinstance(sealed, str) and sealed:  # "" if another server sealed it
            text = unseal(sealed) or ""
        elif summary := item.get("summary"):
            text = self._text(summary, path)
        if text:
            self._turn.append(m.reasoning(text))

    def function_call(self, item: Json, path: str) -> None:
        name, arguments = self._begin_call(item, path), item.get("arguments", "")
        if not isinstance(arguments, str):
            arguments = json_text(arguments)
        self._turn.append(m.tool_call(name, arguments))

    def custom_tool_call(self, item: Json, path: str) -> None:
        name = self._begin_call(item, path)
        self._turn.append(m.text_call(name, required_string(item, "input", path)))

    def additional_tools(self, item: Json, path: str) -> None:
        """Describe tools added later, unless the developer message has them."""
        if tools := self._tools.by_item.get(path):
            self._add_other(m.developer(tools=tools))

    def tool_search_call(self, item: Json, path: str) -> None:
        if not item.get("call_id"):  # a server's own search: its result is enough
            self.parsed.ignored.append("tool_search_call")
            return
        name = self._begin_call(item, path, self._tools.names.search)
        self._search_ids.add(str(item["call_id"]))
        self._turn.append(m.tool_call(name, json_text(item.get("arguments") or {})))

    def tool_search_output(self, item: Json, path: str) -> None:
        call_id = str(item.get("call_id"))
        if call_id not in self._search_ids:
            self.additional_tools(item, path)
            return
        text = search_result_text(self._tools.by_item.get(path, ()))
        self._end_turn()
        self._pairing.add_result(text, id=call_id, where=path)

    def compaction(self, item: Json, path: str) -> None:
        """Read the summary of an earlier conversation as a message of the user."""
        sealed = item.get("encrypted_content")
        summary = unseal(sealed) if isinstance(sealed, str) else None
        if summary is None:  # another server sealed it
            self.parsed.ignored.append("compaction")
        else:
            self._add_other(m.user(SUMMARY_HEADING + summary))

    def agent_message(self, item: Json, path: str) -> None:
        """Read a message of another agent of the client as one of the user."""
        content = unseal_parts(item.get("content"))
        self._add_other(m.user(self._text(content, path)))

    def output(self, item: Json, path: str) -> None:
        id = item.get("call_id")
        if str(id) in self._ignored_ids:
            self.parsed.ignored.append(item_type(item))
            return
        text = self._text(item.get("output"), path)
        self._end_turn()
        self._pairing.add_result(
            text,
            id=None if id is None else str(id),
            name=self._tool_name(item),
            where=path,
        )

    def _assistant_message(self, item: Json, index: int) -> None:
        """Read text of the model: an answer, or a preamble if a call follows."""
        parts = content_parts(item.get("content"), self._paths[index])
        self._note_hidden(parts)
        thoughts = [part.text for part in parts if part.is_reasoning and part.text]
        if thoughts:
            self._turn.append(m.reasoning(PARAGRAPH_BREAK.join(thoughts)))
        texts = [part.text for part in parts if not part.is_reasoning]
        if text := PARAGRAPH_BREAK.join(texts):
            is_preamble = item.get("phase") == COMMENTARY or self._call_follows(index)
            message = m.preamble(text) if is_preamble else m.answer(text)
            last = self._turn[-1] if self._turn else None
            if item.get(CONTINUES_ANSWER) and last and can_continue(last):
                message = m.answer(self._turn.pop().text + text)
            self._turn.append(message)

    def _text(self, content: Any, path: str, *, must_be_text: bool = False) -> str:
        parts = content_parts(content, path, must_be_text=must_be_text)
        self._note_hidden(parts)
        return PARAGRAPH_BREAK.join(part.text for part in parts)

    def _note_hidden(self, parts: Sequence[ContentPart]) -> None:
        self.parsed.ignored += [part.hidden for part in parts if part.hidden]

    def _call_follows(self, index: int) -> bool:
        """Whether the model's next item, apart from reasoning, is a call."""
        for item in self._items[index + 1 :]:
            kind = item_type(item) if isinstance(item, Mapping) else ""
            if kind in CALL_TYPES:
                return True
            if kind != "reasoning":
                return False
        return False

    def _tool_name(self, item: Json) -> str | None:
        """Return the name of the tool of an item, as the model reads it."""
        name = item.get("name")
        if not isinstance(name, str) or not name:
            return None
        return self._tools.names.model_name(name, namespace_of(item))

    def _begin_call(self, item: Json, path: str, name: str | None = None) -> str:
        name = name or self._tool_name(item) or required_string(item, "name", path)
        call_id = required_string(item, "call_id", path)
        self._calls.append((call_id, path))
        return name

    def _resolve(self, item: Any, path: str) -> Json:
        if not isinstance(item, Mapping):
            raise bad_request(f"`{path}` is not a JSON object", param=path)
        if not is_reference(item):
            return item
        found = self._find(str(item.get("id"))) if self._find else None
        if found is None:
            raise bad_request(
                f"`{path}` refers to an item that is not stored here: send the item",
                param=path,
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
    "compaction": _ItemParser.compaction,
    "compaction_summary": _ItemParser.compaction,  # Codex's older name of it
    "context_compaction": _ItemParser.compaction,
}
