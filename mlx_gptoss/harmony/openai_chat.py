"""Convert OpenAI's chat messages, as plain JSON values, to Harmony messages.

    conversation = from_chat_messages(request["messages"], tools=request["tools"])

`system` and `developer` messages both become developer messages: the leading ones are
joined, with the tools and the response format; later ones keep their place. The
reasoning of an assistant message goes to analysis, text beside tool calls to
commentary, and other text to final. Results follow their calls, in the order of the
calls; a result without an id answers the oldest open call. Content other than text is
replaced by a line that names it, and refused in the newest user message.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.content_parts import PARAGRAPH_BREAK, read_part
from mlx_gptoss.harmony.json_text import Json, json_text
from mlx_gptoss.harmony.tool_results import Pairing

INSTRUCTIONS = ("system", "developer")
RESULTS = ("tool", "function")
REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")
Restore = Callable[[Sequence[m.Message], Sequence[str]], Sequence[m.Message]]
Written = Callable[[int, Sequence[m.Message]], None]


def from_chat_messages(
    messages: Sequence[Any],
    *,
    tools: Iterable[Any] = (),
    response_format: Any = None,
    effort: m.Effort | None = "medium",
    conversation_date: str | None = None,
    identity: str | None = m.IDENTITY,
    restore: Restore | None = None,
    written: Written | None = None,
    to_answer: bool = True,
) -> list[m.Message]:
    """Return the whole conversation, starting with the system message.

    `tools` are entries of a request, or ToolDescriptions read from them before.
    `restore(messages, call_ids)` may add the reasoning that an assistant message with
    calls lacks (see `ReasoningMemory`). `written(index, messages)` is told what became
    of each assistant message. Calls at the end must have their results,
    unless `to_answer=False`: then the model does not continue from here.
    Raises PromptError, which names the message or tool that is malformed.
    """
    given = [_mapping(one, f"messages[{at}]") for at, one in enumerate(messages)]
    leading = 0
    while leading < len(given) and given[leading].get("role") in INSTRUCTIONS:
        leading += 1
    texts = [_text(one, f"messages[{at}]") for at, one in enumerate(given[:leading])]
    content = m.DeveloperContent(
        PARAGRAPH_BREAK.join(filter(None, texts)) or None,
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
    of_user = [at for at, one in enumerate(given) if one.get("role") == "user"]
    for at in range(leading, len(given)):
        newest = at == of_user[-1] if of_user else False
        own = _take(given[at], f"messages[{at}]", pairing, restore, newest=newest)
        if written is not None and given[at].get("role") == "assistant":
            written(at, own)
    return pairing.messages(to_answer=to_answer)


def read_tool(entry: Any, where: str = "a tool") -> m.ToolDescription:
    """Convert an entry of `tools`. Raises PromptError unless it is a function."""
    entry = _mapping(entry, where)
    function = _mapping(entry.get("function", entry), where)
    name = function.get("name")
    if not isinstance(name, str):
        raise PromptError(f"{where} has no `name`: only functions can be offered")
    parameters = function.get("parameters")
    if parameters is not None:
        parameters = _mapping(parameters, f"`parameters` of {where}")
    description = function.get("description")
    if not isinstance(description, str | None):
        raise PromptError(f"`description` of {where} is not text")
    return m.ToolDescription(name, description or "", parameters)


def _take(
    one: Json, where: str, pairing: Pairing, restore: Restore | None, *, newest: bool
) -> Sequence[m.Message]:
    """Add a message to `pairing`; `newest` marks the last one by the user.

    Return what it became; nothing for a result, which has its place behind its call.
    """
    own: Sequence[m.Message] = ()
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
        own = [_user_or_developer(one, where, must_be_text=newest)]
        pairing.add_messages(own)
    return own


def _user_or_developer(one: Json, where: str, *, must_be_text: bool) -> m.Message:
    """Convert a message of the user, or a developer message that is not leading."""
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
    """Convert an assistant message; also return the id and path of each call."""
    reasoning, texts = _split(one, where)
    out: list[m.Message] = []
    fields = [one[key] for key in REASONING_KEYS if isinstance(one.get(key), str)]
    if thought := next(filter(None, [*fields, PARAGRAPH_BREAK.join(reasoning)]), ""):
        out.append(m.reasoning(thought))
    calls = _calls(one, where)
    if text := PARAGRAPH_BREAK.join(texts) or one.get("refusal") or "":
        out.append(m.preamble(text) if calls else m.answer(text))
    for entry, path in calls:
        function = _mapping(entry.get("function"), path)
        name, arguments = function.get("name"), function.get("arguments", "")
        if not isinstance(name, str):
            raise PromptError(f"{path} has no `function.name`: add it")
        arguments = arguments if isinstance(arguments, str) else json_text(arguments)
        out.append(m.tool_call(name, arguments))
    return out, [(_id(entry), path) for entry, path in calls]


def _calls(one: Json, where: str) -> list[tuple[Json, str]]:
    """Return the calls of a message and their paths; `function_call` is outdated."""
    if not one.get("tool_calls") and one.get("function_call"):
        path = f"{where}.function_call"
        return [({"function": _mapping(one["function_call"], path)}, path)]
    given = one.get("tool_calls") or ()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise PromptError(f"`tool_calls` of {where} is not a list")
    entries = enumerate(given)
    found = [(entry, f"{where}.tool_calls[{at}]") for at, entry in entries]
    return [(_mapping(entry, path), path) for entry, path in found]


def _id(entry: Json) -> str | None:
    id = entry.get("id")
    return None if id is None else str(id)


def _formats(given: Any) -> tuple[m.ResponseFormat, ...]:
    """Return the schema of a `response_format` if the prompt shows it."""
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
    """Return the type of every part that is replaced by a line."""
    contents = [one.get("content") for one in messages if isinstance(one, Mapping)]
    lists = [content for content in contents if isinstance(content, list)]
    found = [read_part(part, "").hidden for content in lists for part in content]
    return [kind for kind in found if kind]


def _text(one: Json, where: str, *, must_be_text: bool = False) -> str:
    reasoning, texts = _split(one, where, must_be_text=must_be_text)
    return PARAGRAPH_BREAK.join([*reasoning, *texts])


def _split(
    one: Json, where: str, *, must_be_text: bool = False
) -> tuple[list[str], list[str]]:
    """Return the reasoning texts and the other texts of a content."""
    content = one.get("content")
    if content is None or isinstance(content, str):
        return [], [content] if content else []
    if not isinstance(content, list):
        raise PromptError(f"`content` of {where} is neither text nor a list of parts")
    parts = [read_part(part, where, must_be_text=must_be_text) for part in content]
    reasoning = [part.text for part in parts if part.is_reasoning and part.text]
    return reasoning, [part.text for part in parts if not part.is_reasoning]


def _mapping(value: Any, where: str) -> Json:
    if not isinstance(value, Mapping):
        raise PromptError(f"{where} is not a JSON object")
    return value
