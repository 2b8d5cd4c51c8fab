"""A tool the model may call: from a Python function or from a JSON schema.

    tool = Tool.from_function(get_weather)           # signature and docstring
    tool = Tool.from_schema("get_weather", "...", {"type": "object", ...})
    tool.run('{"city": "Paris"}')                    # -> text for the model

A tool without a function is only described to the model: its calls are handed to
the caller. The function may be async. Knows nothing of chats.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.chat.tools import signature
from mlx_gptoss.chat.tools.docstring import parse_docstring
from mlx_gptoss.chat.tools.run import (
    CallInterrupted,
    CallTimeout,
    run_in_loop,
    run_with_timeout,
)
from mlx_gptoss.errors import GptOssError, PromptError
from mlx_gptoss.harmony.constrain.tool_constraints import close_schema
from mlx_gptoss.harmony.messages import (
    FUNCTION_PREFIX,
    ToolDescription,
    ToolNamespace,
)
from mlx_gptoss.harmony.parse.argument_errors import argument_errors, with_integers
from mlx_gptoss.harmony.render.typescript import typescript

Schema = Mapping[str, Any]
MAX_SCHEMA_CHARACTERS = 100_000  # of a schema in a prompt
INTERRUPTED = "Error: the call was interrupted"


@dataclass(frozen=True)
class Tool:
    """The description of a tool for the model, and the function that does the work.

    A built-in tool has the `namespace` that the system message declares, and its
    recipient as its name. With `takes_text`, the function gets the text of the call
    unparsed; with `limits_itself`, it has a time limit of its own; `interrupt` ends a
    call whose result is no longer awaited.
    """

    description: ToolDescription
    function: Callable[..., Any] | None = None
    namespace: ToolNamespace | None = None
    takes_text: bool = False
    limits_itself: bool = False
    interrupt: Callable[[], None] | None = None

    @classmethod
    def from_function(cls, function: Callable[..., Any]) -> "Tool":
        """Describe `function` by its name, docstring, annotations and defaults.

        Raises PromptError for parameters or types that JSON cannot express.
        """
        name = getattr(function, "__name__", type(function).__name__)
        if name == "<lambda>":
            raise PromptError("a lambda has no name to call it by: use a `def`")
        text = parse_docstring(inspect.getdoc(function)).description
        schema = signature.parameters_schema(function)
        return cls(ToolDescription(name, text, schema), function)

    @classmethod
    def from_schema(
        cls,
        name: str,
        description: str = "",
        parameters: Schema | None = None,
        *,
        function: Callable[..., Any] | None = None,
    ) -> "Tool":
        """Describe a tool by a JSON schema; `function` gets the arguments by name.

        `parameters` is a schema of type object. Without a function the caller answers
        (see `Chat.submit_result`). Raises PromptError for an empty name.
        Arguments that the schema does not name are refused, unless it has
        `additionalProperties`.
        """
        return cls(ToolDescription(name, description, parameters), function)

    @property
    def name(self) -> str:
        """The name, as the tool was described."""
        return self.description.name

    @property
    def recipient(self) -> str:
        """The recipient of a call in Harmony."""
        built_in = self.namespace is not None
        return self.name if built_in else FUNCTION_PREFIX + self.description.wire_name

    def run(
        self,
        arguments: str,
        *,
        seconds: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """Call the function with JSON arguments; return the result or error as text.

        A tool never ends a conversation: the model reads the error. With a limit of
        `seconds`, the function runs in a thread of its own. `cancelled` says whether
        the result is no longer awaited.
        """
        call = self._prepare(arguments)
        if isinstance(call, str):
            return call
        try:
            return as_text(
                run_with_timeout(
                    call,
                    None if self.limits_itself else seconds,
                    is_async=is_async(self.function),
                    cancelled=cancelled,
                    interrupt=self.interrupt,
                )
            )
        except Exception as error:
            return _error_text(error, seconds)

    async def run_async(
        self,
        arguments: str,
        *,
        seconds: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """Do what `run` does with `arguments`, without blocking the running event loop.

        `seconds` and `cancelled` are those of `run`, and errors are text, too.

        An async function runs in this loop, any other in a thread of its own.
        """
        call = self._prepare(arguments)
        if isinstance(call, str):
            return call
        try:
            return as_text(
                await run_in_loop(
                    call,
                    None if self.limits_itself else seconds,
                    is_async=is_async(self.function),
                    cancelled=cancelled,
                    interrupt=self.interrupt,
                )
            )
        except Exception as error:
            return _error_text(error, seconds)

    def _prepare(self, arguments: str) -> Callable[[], Any] | str:
        """Return the call with its arguments, or the error if it cannot be made."""
        if self.function is None:
            return f"Error: `{self.name}` cannot be run here"
        if self.takes_text:
            return lambda: self._call(arguments, {})
        values, problem = self._parse_arguments(arguments)
        return f"Error: {problem}" if problem else lambda: self._call(arguments, values)

    def _parse_arguments(self, arguments: str) -> tuple[Any, str]:
        """Return the arguments, and what is wrong with them ("" for nothing)."""
        schema = self._closed_schema()
        try:
            values = json.loads(arguments or "{}")
            problems = argument_errors(values, schema)
            return values, "; ".join(problems)
        except ValueError as error:
            return None, f"the arguments are not valid JSON ({error})"
        except RecursionError:
            return None, "the arguments are nested too deeply"

    def _closed_schema(self) -> Schema:
        """Return the schema that arguments must match.

        Built-in tools accept more: the model was trained with undeclared arguments.
        """
        schema = self.description.parameters
        return (schema or {}) if self.namespace is not None else close_schema(schema)

    def _call(self, text: str, values: dict[str, Any]) -> Any:
        assert self.function is not None
        if self.takes_text:
            return self.function(text)
        schema = self.description.parameters or {}
        values = with_integers(values, schema)
        hints = signature.annotations(self.function)
        bound = inspect.signature(self.function).bind(
            **{
                name: signature.to_python(value, hints.get(name, Any))
                for name, value in values.items()
            }
        )
        return self.function(*bound.args, **bound.kwargs)


def schema_problem(tool: ToolDescription) -> str | None:
    """Return why a tool's schema cannot be in a prompt; None if it can."""
    try:
        shown = "" if tool.parameters is None else typescript(tool.parameters)
    except RecursionError:
        return "its schema is nested too deeply"
    if len(shown) > MAX_SCHEMA_CHARACTERS:
        return (
            f"its schema has {len(shown)} characters, more than {MAX_SCHEMA_CHARACTERS}"
        )
    return None


def is_async(function: Callable[..., Any] | None) -> bool:
    """Say whether calling `function` returns a coroutine."""
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object
    return any(map(inspect.iscoroutinefunction, (function, called)))


def _error_text(error: Exception, seconds: float | None) -> str:
    """Return what the model reads: whatever a tool raises."""
    if isinstance(error, CallTimeout):
        return f"Error: there was no result within {seconds:g} s"
    if isinstance(error, CallInterrupted):
        return INTERRUPTED
    if isinstance(error, GptOssError):
        return f"Error: {error}"
    return f"Error: {type(error).__name__}: {error}"


def as_text(value: Any) -> str:
    """Convert a result for the model: text as it is, everything else to JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
