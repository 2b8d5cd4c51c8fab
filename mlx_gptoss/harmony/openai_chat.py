"""OpenAI's chat messages, as plain JSON values, to Harmony messages.

    conversation = from_chat_messages(request["messages"], tools=request["tools"])

`system` and `developer` messages both become developer messages: the first ones
together the opening one, with the tools and the response format, later ones where
they stand. Of an assistant message the reasoning goes to analysis, text beside tool
calls to commentary, and other text to final. A result without an id answers the
oldest call that waits.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import json_text

INSTRUCTIONS = ("system", "developer")
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
TEXT_PARTS = ("text", "input_text", "output_text")
BETWEEN = "\n\n"  # instructions, and parts of a content
Json = Mapping[str, Any]
Restore = Callable[[Sequence[m.Message], Sequence[str]], Sequence[m.Message]]


def from_chat_messages(
    messages: Sequence[Any],
    *,
    tools: Iterable[Any] = (),
    response_format: Any = None,
    effort: m.Effort | None = "medium",
    conversation_date: str | None = None,
    identity: str | None = m.IDENTITY,
    restore: Restore | None = None,
) -> list[m.Message]:
    """Return the whole conversation, the system message first.

    `restore(messages, call_ids)` may put back what an assistant message with calls
    came without (see `mlx_gptoss.reasoning_memory`).
    Raises PromptError that names the message or tool which cannot be read.
    """
    given = [_mapping(one, f"messages[{at}]") for at, one in enumerate(messages)]
    opening = 0
    while opening < len(given) and given[opening].get("role") in INSTRUCTIONS:
        opening += 1
    said = [_text(one, f"messages[{at}]") for at, one in enumerate(given[:opening])]
    content = m.DeveloperContent(
        BETWEEN.join(filter(None, said)) or None,
        tuple(read_tool(one, f"tools[{at}]") for at, one in enumerate(tools)),
        response_formats=_formats(response_format),
    )
    out = [m.system(effort, conversation_date=conversation_date, identity=identity)]
    if not content.empty:
        out.append(m.Message("developer", content))
    names: dict[str, str] = {}  # of the calls that wait, oldest first
    for at in range(opening, len(given)):
        own = list(_converted(given[at], f"messages[{at}]", names))
        if restore is not None and any(message.is_call for message in own):
            calls = given[at].get("tool_calls") or []
            own = restore(own, [str(one.get("id")) for one in calls])
        out += own
    return out


def read_tool(entry: Any, where: str = "a tool") -> m.ToolDescription:
    """Read an entry of `tools`. Raises PromptError unless it is a function."""
    entry = _mapping(entry, where)
    function = _mapping(entry.get("function", entry), where)
    name = function.get("name")
    if not isinstance(name, str):
        raise PromptError(f"{where} has no `name`: only functions can be offered")
    parameters = function.get("parameters")
    if parameters is not None:
        parameters = _mapping(parameters, f"`parameters` of {where}")
    return m.ToolDescription(name, function.get("description") or "", parameters)


def _converted(one: Json, where: str, names: dict[str, str]) -> Iterator[m.Message]:
    role = one.get("role")
    if role in INSTRUCTIONS:
        yield m.developer(_text(one, where))
    elif role == "user":
        name = one.get("name")
        yield m.user(_text(one, where), name=name if isinstance(name, str) else None)
    elif role == "assistant":
        yield from _assistant(one, where, names)
    elif role in ("tool", "function"):
        yield m.tool_result(_caller(one, where, names), _text(one, where))
    else:
        raise PromptError(
            f"{where} has role `{role}`: use system, developer, user, assistant or tool"
        )


def _assistant(one: Json, where: str, names: dict[str, str]) -> Iterator[m.Message]:
    for key in REASONING_KEYS:
        if isinstance(one.get(key), str) and one[key]:
            yield m.reasoning(one[key])
            break
    calls = one.get("tool_calls") or []
    text = _text(one, where) or one.get("refusal") or ""
    if text:
        yield m.preamble(text) if calls else m.answer(text)
    for at, entry in enumerate(calls):
        place = f"{where}.tool_calls[{at}]"
        entry = _mapping(entry, place)
        function = _mapping(entry.get("function"), place)
        name, arguments = function.get("name"), function.get("arguments", "")
        if not isinstance(name, str):
            raise PromptError(f"{place} has no `function.name`: add it")
        names[str(entry.get("id", place))] = name
        arguments = arguments if isinstance(arguments, str) else json_text(arguments)
        yield m.tool_call(name, arguments)


def _caller(one: Json, where: str, names: dict[str, str]) -> str:
    """The tool that a result is of."""
    call = one.get("tool_call_id")
    if str(call) in names:
        return names.pop(str(call))
    if isinstance(one.get("name"), str):
        return one["name"]
    if call is None and names:
        return names.pop(next(iter(names)))
    raise PromptError(
        f"{where} is the result of no call: give the `tool_call_id` of an earlier "
        "`tool_calls` entry"
    )


def _formats(given: Any) -> tuple[m.ResponseFormat, ...]:
    """The schema of a `response_format`, if it has one for the model to read."""
    if not isinstance(given, Mapping) or given.get("type") != "json_schema":
        return ()
    where = "`response_format.json_schema`"
    found = _mapping(given.get("json_schema", given), where)
    schema = _mapping(found.get("schema"), f"`schema` of {where}")
    name = found.get("name") or "response"
    return (m.ResponseFormat(name, schema, found.get("description") or ""),)


def _text(one: Json, where: str) -> str:
    content = one.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise PromptError(f"`content` of {where} is no text and no list of parts")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise PromptError(
                f"{where} has content of type `{kind}`: gpt-oss reads text only"
            )
        texts.append(part["text"])
    return BETWEEN.join(texts)


def _mapping(value: Any, where: str) -> Json:
    if not isinstance(value, Mapping):
        raise PromptError(f"{where} is no JSON object")
    return value
