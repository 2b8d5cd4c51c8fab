"""Read one row of a JSONL file: which form it has, and the example in it.

    {"messages": [...], "tools": [...]}         OpenAI's chat format, or Harmony's own
    {"prompt": [...], "completion": [...]}      messages: the completion is learned
    {"prompt": "...", "completion": "..."}      text, or a question and its answer
    {"text": "..."}                             text, all of it learned

Beside the messages a row may have `tools`, `reasoning_effort`, `date`,
`model_identity` and `response_format`; other keys are ignored. Raises PromptError,
which says what is wrong and what to do, without the file and the line.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import messages as m
from mlx_gptoss.harmony.json_text import Json
from mlx_gptoss.harmony.openai_chat import RESULTS, from_chat_messages, hidden_parts
from mlx_gptoss.harmony.special_tokens import MESSAGE, START
from mlx_gptoss.harmony.tool_results import UNANSWERED
from mlx_gptoss.workloads.tune.examples import (
    PlainExample,
    TrainingExample,
    trained_kind,
)
from mlx_gptoss.workloads.tune.harmony_form import is_harmony_form, read_harmony
from mlx_gptoss.workloads.tune.settings import CorpusSettings

SETTINGS_OF_TEMPLATES = "chat_template_kwargs"  # where TRL's rows have the effort
SHOWN_KEYS = 6
NO_RESULT = (
    "has a call without a result: add its message of role `tool`, or end the "
    "conversation with the call"
)


def read_example(row: Any, settings: CorpusSettings) -> TrainingExample | PlainExample:
    """Return the example in a row, given as JSON values."""
    if isinstance(row, list):
        row = {"messages": row}
    if not isinstance(row, Mapping):
        raise PromptError('is not a JSON object: write {"messages": [...]}')
    if "messages" in row:
        return _conversation(row, _messages(row, "messages"), 0, settings)
    if "prompt" in row or "completion" in row:
        return _pair(row, settings)
    if "text" in row:
        return PlainExample("", _plain_text(row, "text"))
    raise PromptError(
        "has neither `messages`, nor `prompt` and `completion`, nor `text` "
        f"({_shown(row)}): rename its keys"
    )


def _shown(row: Json) -> str:
    keys = [f"`{key}`" for key in row]
    more = ", ..." if len(keys) > SHOWN_KEYS else ""
    return f"its keys are {', '.join(keys[:SHOWN_KEYS])}{more}" if keys else "no keys"


def _pair(row: Json, settings: CorpusSettings) -> TrainingExample | PlainExample:
    """Read a prompt and its completion, each of messages or of text."""
    for key, other in (("prompt", "completion"), ("completion", "prompt")):
        if key not in row:
            raise PromptError(f"has `{other}` but no `{key}`: give both")
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str) and isinstance(completion, str):
        if settings.pairs == "chat":
            pair = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": completion},
            ]
            return _conversation(row, pair, 1, settings)
        return PlainExample(_plain_text(row, "prompt"), _plain_text(row, "completion"))
    asked, answered = (_messages(row, key) for key in ("prompt", "completion"))
    return _conversation(row, [*asked, *answered], len(asked), settings)


def _plain_text(row: Json, key: str) -> str:
    text = row[key]
    if not isinstance(text, str):
        raise PromptError(f"has a `{key}` that is no text: write it as a JSON string")
    if START in text and MESSAGE in text:
        raise PromptError(
            f"has control tokens such as {START} in its `{key}`, which would be "
            "learned as letters: give the conversation as `messages`"
        )
    if key != "prompt" and not text:
        raise PromptError(f"has an empty `{key}`: there is nothing to learn")
    return text


def _messages(row: Json, key: str) -> Sequence[Any]:
    messages = row[key]
    if not isinstance(messages, list) or not messages:
        raise PromptError(f"has no list of messages in `{key}`: give at least one")
    for place, one in enumerate(messages):
        if not isinstance(one, Mapping):
            raise PromptError(f"has no JSON object in `{key}[{place}]`")
    return messages


def _conversation(
    row: Json, given: Sequence[Json], first: int, settings: CorpusSettings
) -> TrainingExample:
    """Read messages, of which those from place `first` on are learned."""
    if is_harmony_form(given):
        messages, places = read_harmony(given), list(range(len(given)))
    else:
        messages, places = _from_chat(row, given, settings)
    learned = frozenset(
        index
        for index, (message, place) in enumerate(zip(messages, places, strict=True))
        if message.role == "assistant" and place >= first and _weight(given, place)
    )
    example = TrainingExample(tuple(messages), learned)
    if not any(message.role == "assistant" for message in messages[first:]):
        raise PromptError(
            "has no message of the assistant to learn: add one, or leave the row out"
        )
    _check_arguments(example)
    _check_results(messages)
    return example


def _from_chat(
    row: Json, given: Sequence[Json], settings: CorpusSettings
) -> tuple[list[m.Message], list[int]]:
    """Read OpenAI's messages; also return the place from which each came.

    The place of a message that is not the assistant's is -1.
    """
    if hidden := hidden_parts(given):
        raise PromptError(f"has a `{hidden[0]}`, but gpt-oss reads text only")
    place_of: dict[int, int] = {}

    def note_places(place: int, own: Sequence[m.Message]) -> None:
        if not own:
            raise PromptError(
                f"messages[{place}] is the assistant's and has neither text nor calls"
            )
        place_of.update({id(message): place for message in own})

    more = {**_mapping(row, SETTINGS_OF_TEMPLATES), **row}
    messages = from_chat_messages(
        given,
        tools=_tools(row),
        response_format=row.get("response_format"),
        effort=more.get("reasoning_effort") or settings.effort,
        conversation_date=_text(more, "date") or settings.date,
        identity=_text(more, "model_identity") or m.IDENTITY,
        written=note_places,
        to_answer=False,
    )
    _check_made_up(given, messages)
    return messages, [place_of.get(id(message), -1) for message in messages]


def _text(row: Json, key: str) -> str | None:
    text = row.get(key)
    if not isinstance(text, str | None):
        raise PromptError(f"has a `{key}` that is no text")
    return text


def _mapping(row: Json, key: str) -> Json:
    found = row.get(key)
    return found if isinstance(found, Mapping) else {}


def _tools(row: Json) -> list[Any]:
    """Return the tools of a row; data sets often store them as a JSON string."""
    tools = row.get("tools") or row.get("functions") or []
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise PromptError(f"has `tools` that are not JSON ({error})") from error
    if not isinstance(tools, list):
        raise PromptError("has `tools` that are not a list: give OpenAI's entries")
    return tools


def _weight(given: Sequence[Json], place: int) -> bool:
    """Return whether a message is learned, by its `weight`, as OpenAI's files do."""
    weight = given[place].get("weight", 1)
    if weight is None or weight in (0, 1):
        return weight != 0
    raise PromptError(f"messages[{place}] has a `weight` other than 0 and 1")


def _check_made_up(given: Sequence[Json], messages: Sequence[m.Message]) -> None:
    """Refuse calls for which a prompt would make a result up."""
    made_up = sum(one.role == "tool" and one.text == UNANSWERED for one in messages)
    own = sum(
        one.get("role") in RESULTS and one.get("content") == UNANSWERED for one in given
    )
    if made_up > own:
        raise PromptError(NO_RESULT)


def _check_results(messages: Sequence[m.Message]) -> None:
    """Refuse a turn that goes on to its answer, or ends, without a call's result."""
    waiting = 0
    for message in messages:
        if message.is_call:
            waiting += 1
        elif message.role == "tool":
            waiting = max(0, waiting - 1)
        elif waiting and (
            message.role != "assistant" or trained_kind(message) == "final"
        ):
            raise PromptError(NO_RESULT)


def _check_arguments(example: TrainingExample) -> None:
    """Refuse arguments that would teach the model calls that cannot be read."""
    for call in example.calls:
        if call.content_type != m.CONSTRAINED_JSON:
            continue
        name = str(call.recipient).removeprefix(m.FUNCTION_PREFIX)
        try:
            valid = isinstance(json.loads(call.text), dict)
        except ValueError:
            valid = False
        if not valid:
            raise PromptError(
                f"has a call of `{name}` whose `arguments` are not a JSON object: "
                "write `{}` if there are none"
            )
