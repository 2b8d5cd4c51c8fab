"""The format of an answer as a caller gives it, and reading an answer in that format.

    reader = ReplyFormat.of(Invoice, chat.constraints)   # a pydantic model
    reader.to_enforce                                    # what constrains sampling
    reader.parse(reply).parsed                           # -> Invoice

Knows nothing of models or turns. Imports pydantic only for types.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from mlx_gptoss.chat.reply import Reply
from mlx_gptoss.engine.outputs import LENGTH, STOP
from mlx_gptoss.errors import AnswerFormatError, PromptError
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat, FormatKind
from mlx_gptoss.harmony.constrain.constraints import Constraints

OPENAI_TYPES = ("text", "json_object", *get_args(FormatKind))  # of a response_format
ADVICE = "give a type that pydantic knows, a JSON schema, or an AnswerFormat"
MAX_SHOWN = 200  # characters of an answer in an error
NOT_A_NAME = re.compile(r"\W+")


@dataclass(frozen=True)
class ReplyFormat:
    """A format, and how its answers are read.

    to_enforce: constrains this turn; None leaves the constraints of the chat.
    read: makes a value of the text of an answer; raises ValueError. None: it is text.
    name: what the caller gave, for errors.
    """

    to_enforce: AnswerFormat | None
    read: Callable[[str], Any] | None
    name: str

    @classmethod
    def of(cls, given: Any, constraints: Constraints) -> "ReplyFormat":
        """Take what `Chat.ask` takes; None is the format of `constraints`.

        Raises PromptError for anything else, and for a type without a JSON schema.
        """
        if given is None:
            of_chat = constraints.response_format
            return cls(None, _reader(of_chat), "the response format")
        if isinstance(given, AnswerFormat):
            return cls(given, _reader(given), "the response format")
        if isinstance(given, Mapping):
            openai = given.get("type") in OPENAI_TYPES
            enforced = AnswerFormat.of(given) if openai else _of_schema(given)
            return cls(enforced, _reader(enforced), "the response format")
        return _of_type(given)

    def parse(self, reply: Reply) -> Reply:
        """Return the reply with `parsed`, if the answer ended by itself.

        Raises AnswerFormatError for one that was cut off or that a validator refuses.
        """
        if self.read is None:
            return reply
        if reply.finish_reason == LENGTH:
            raise AnswerFormatError(
                f"the answer was cut off before the end of {self.name}: raise "
                "`max_tokens` or the context, or lower `effort`",
                reply,
            )
        if reply.finish_reason != STOP:  # calls wait, or the caller cancelled
            return reply
        try:
            return replace(reply, parsed=self.read(reply.answer))
        except ValueError as error:  # also pydantic's ValidationError
            raise AnswerFormatError(
                f"the answer {_shortened(reply.answer)} is not {self.name}: "
                f"{_in_one_line(error)}",
                reply,
            ) from error


def _reader(enforced: AnswerFormat | None) -> Callable[[str], Any] | None:
    is_json = enforced is not None and enforced.kind == "json_schema"
    return json.loads if is_json else None


def _of_schema(schema: Mapping[str, Any]) -> AnswerFormat:
    title = schema.get("title")
    name = NOT_A_NAME.sub("_", title) if isinstance(title, str) else ""
    return AnswerFormat.json_schema(schema, name=name or "answer")


def _of_type(given: Any) -> ReplyFormat:
    """Use pydantic for a type; its JSON schema names all fields that are allowed."""
    import pydantic  # noqa: PLC0415 - takes long to import, and few need it

    name = getattr(given, "__name__", None) or str(given)
    if isinstance(given, str):  # pydantic would look for a type of this name
        raise PromptError(f"`response_format` is {given!r}: {ADVICE}")
    try:
        adapter = pydantic.TypeAdapter(given)
        schema = _closed(adapter.json_schema())
    except (pydantic.PydanticUserError, TypeError) as error:
        cause = str(error).splitlines()[0].partition(". Set ")[0]
        raise PromptError(
            f"`response_format` is {given!r}, which has no JSON schema ({cause}): "
            f"{ADVICE}"
        ) from error
    enforced = replace(_of_schema(schema), name=NOT_A_NAME.sub("_", name).strip("_"))
    return ReplyFormat(enforced, adapter.validate_json, f"`{name}`")


def _closed(schema: Any) -> Any:
    """Close the objects of a schema: a model ignores fields that it does not name."""
    if isinstance(schema, list):
        return [_closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    if closed.get("type") == "object" and isinstance(closed.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def _in_one_line(error: ValueError) -> str:
    """Return what is wrong, without the advice that pydantic adds."""
    if not hasattr(error, "errors"):
        return str(error)
    problems = error.errors()  # pyright: ignore[reportAttributeAccessIssue]
    where = [".".join(map(str, one["loc"])) for one in problems]
    pairs = zip(where, problems, strict=True)
    return "; ".join(f"`{place or 'it'}`: {one['msg']}" for place, one in pairs)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")
