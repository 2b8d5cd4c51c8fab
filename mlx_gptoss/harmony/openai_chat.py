"""OpenAI's chat messages, as plain JSON values, to Harmony messages.

    conversation = from_chat_messages(request["messages"], tools=request["tools"])

`system` and `developer` messages both become developer messages: the first ones
together the opening one, with the tools and the response format, later ones where
they stand. Of an assistant message the reasoning goes to analysis, text beside tool
calls to commentary, and other text to final. Results stand behind their calls, in the
order of the calls; one without an id answers the oldest call that waits. What is no
text is named in its place, and refused in the newest message of the user.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.constrain.constraints import AnswerFormat
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK, read_part
from mlx_gptoss.harmony.json_text import Json, json_text
from mlx_gptoss.harmony.tool_results import Pairing

INSTRUCTIONS = ("system", "developer")
RESULTS = ("tool", "function")
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
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
    to_answer: bool = True,
) -> list[m.Message]:
    """Return the whole conversation, the system message first.

    `restore(messages, call_ids)` may put back what an assistant message with calls
    came without (see `ReasoningMemory`). Calls at the end must have their
    results, unless `to_answer` is off: then nobody goes on from here.
    `tools` are entries of a request, or ToolDescriptions that were read from them.
    Raises PromptError that names the message or tool which cannot be read.
    """
    given = [_mapping(one, f"messages[{at}]") for at, one in enumerate(messages)]
    opening = 0
    while opening < len(given) and given[opening].get("role") in INSTRUCTIONS:
        opening += 1
    said = [_text(one, f"messages[{at}]") for at, one in enumerate(given[:opening])]
    content = m.DeveloperContent(
        PARAGRAPH_BREAK.join(filter(None, said)) or None,
        tuple(
            one
            if isinstance(one, m.ToolDescription)
            else read_tool(one, f"tools[{at}]")
            for at, one in enumerate(tools)
        ),
        response_formats=_formats(response_format),
    )
    out = [m.system(effort, conversation_date=conversation_date, identity=identity)]
    if not content.empty:
        out.append(m.Message("developer", content))
    pairing = Pairing("tool_call_id")
    pairing.add_messages(out)
    asked = [at for at, one in enumerate(given) if one.get("role") == "user"]
    for at in range(opening, len(given)):
        newest = at == asked[-1] if asked else False
        _take(given[at], f"messages[{at}]", pairing, restore, newest=newest)
    return pairing.messages(to_answer=to_answer)


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


def _take(
    one: Json, where: str, pairing: Pairing, restore: Restore | None, *, newest: bool
) -> None:
    """Read a message; `newest` is what the user said last."""
    if one.get("role") in RESULTS:
        id, name = one.get("tool_call_id"), one.get("name")
        pairing.add_result(
            _text(one, where),
            id=None if id is None else str(id),
            name=name if isinstance(name, str) else None,
            where=where,
        )
    elif one.get("role") == "assistant":
        own, calls = _assistant(one, where)
        if restore is not None and calls:
            own = restore(own, [str(id) for id, _ in calls])
        pairing.add_messages(own, calls)
    else:
        pairing.add_messages([_said(one, where, must_be_text=newest)])


def _said(one: Json, where: str, *, must_be_text: bool) -> m.Message:
    """What a user says, or a developer in the middle."""
    role, name = one.get("role"), one.get("name")
    if role in INSTRUCTIONS:
        return m.developer(_text(one, where))
    if role != "user":
        raise PromptError(
            f"{where} has role `{role}`: use system, developer, user, assistant or tool"
        )
    text = _text(one, where, must_be_text=must_be_text)
    return m.user(text, name=name if isinstance(name, str) else None)


def _assistant(
    one: Json, where: str
) -> tuple[Sequence[m.Message], list[tuple[str | None, str]]]:
    """What the model said, and the id and place of each call in it."""
    thoughts, texts = _split(one, where)
    out: list[m.Message] = []
    fields = [one[key] for key in REASONING_KEYS if isinstance(one.get(key), str)]
    if thought := next(filter(None, [*fields, PARAGRAPH_BREAK.join(thoughts)]), ""):
        out.append(m.reasoning(thought))
    calls = _calls(one, where)
    if text := PARAGRAPH_BREAK.join(texts) or one.get("refusal") or "":
        out.append(m.preamble(text) if calls else m.answer(text))
    for entry, place in calls:
        function = _mapping(entry.get("function"), place)
        name, arguments = function.get("name"), function.get("arguments", "")
        if not isinstance(name, str):
            raise PromptError(f"{place} has no `function.name`: add it")
        arguments = arguments if isinstance(arguments, str) else json_text(arguments)
        out.append(m.tool_call(name, arguments))
    return out, [(_id(entry), place) for entry, place in calls]


def _calls(one: Json, where: str) -> list[tuple[Json, str]]:
    """The calls of a message and their places; `function_call` is an older form."""
    if not one.get("tool_calls") and one.get("function_call"):
        place = f"{where}.function_call"
        return [({"function": _mapping(one["function_call"], place)}, place)]
    places = enumerate(one.get("tool_calls") or ())
    named = [(entry, f"{where}.tool_calls[{at}]") for at, entry in places]
    return [(_mapping(entry, place), place) for entry, place in named]


def _id(entry: Json) -> str | None:
    id = entry.get("id")
    return None if id is None else str(id)


def _formats(given: Any) -> tuple[m.ResponseFormat, ...]:
    """The schema of a `response_format`, if it has one for the model to read."""
    kind = given.get("type") if isinstance(given, Mapping) else None
    if kind == "json_schema":
        where = "`response_format.json_schema`"
        found = _mapping(given.get("json_schema", given), where)
        _mapping(found.get("schema"), f"`schema` of {where}")
    elif kind != "json_object":
        return ()
    answer = AnswerFormat.of(given)
    return (
        (answer.prompt_format,) if answer is not None and answer.prompt_format else ()
    )


def hidden_parts(messages: Iterable[Any]) -> list[str]:
    """The types of the parts that a line stands for, as often as they come."""
    contents = [one.get("content") for one in messages if isinstance(one, Mapping)]
    lists = [content for content in contents if isinstance(content, list)]
    found = [read_part(part, "").hidden for content in lists for part in content]
    return [kind for kind in found if kind]


def _text(one: Json, where: str, *, must_be_text: bool = False) -> str:
    thoughts, texts = _split(one, where, must_be_text=must_be_text)
    return PARAGRAPH_BREAK.join([*thoughts, *texts])


def _split(
    one: Json, where: str, *, must_be_text: bool = False
) -> tuple[list[str], list[str]]:
    """The thoughts and the other texts of a content."""
    content = one.get("content")
    if content is None or isinstance(content, str):
        return [], [content] if content else []
    if not isinstance(content, list):
        raise PromptError(f"`content` of {where} is no text and no list of parts")
    parts = [read_part(part, where, must_be_text=must_be_text) for part in content]
    thoughts = [part.text for part in parts if part.is_thought and part.text]
    return thoughts, [part.text for part in parts if not part.is_thought]


def _mapping(value: Any, where: str) -> Json:
    if not isinstance(value, Mapping):
        raise PromptError(f"{where} is no JSON object")
    return value
