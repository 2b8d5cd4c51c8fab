"""A tool the model may call: from a Python function or from a JSON schema.

    tool = Tool.from_function(get_weather)           # signature and docstring
    tool = Tool.from_schema("get_weather", "...", {"type": "object", ...})
    tool.run('{"city": "Paris"}')                    # -> text for the model

A tool without a function is only described to the model: its calls are handed to
the caller. The function may be async. A ToolSet is several tools that belong
together and keep a state, as the built-in ones do. Knows nothing of chats.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mlx_gptoss.chat.tools import signature
from mlx_gptoss.chat.tools.docstring import read_docstring
from mlx_gptoss.chat.tools.run import CallInterrupted, CallTimeout, run_with_timeout
from mlx_gptoss.errors import GptOssError, PromptError
from mlx_gptoss.harmony.constrain.constraints import close_schema
from mlx_gptoss.harmony.messages import (
    FUNCTION_PREFIX,
    ToolDescription,
    ToolNamespace,
)
from mlx_gptoss.harmony.parse import validate
from mlx_gptoss.harmony.render.typescript import typescript

Schema = Mapping[str, Any]
MAX_SCHEMA_CHARACTERS = 100_000  # characters of a schema in a prompt


@dataclass(frozen=True)
class Tool:
    """What the model reads of a tool, and the function that does the work.

    A built-in tool has the `namespace` that the system message declares, and its
    recipient for a name. One that `takes_text` gets what the model wrote as it is;
    one that `limits_itself` keeps a time limit of its own; `interrupt` ends a call
    that nobody waits for any more.
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

        Raises PromptError for parameters or types that JSON cannot carry.
        """
        name = getattr(function, "__name__", type(function).__name__)
        if name == "<lambda>":
            raise PromptError("a lambda has no name to call it by: use a `def`")
        text = read_docstring(inspect.getdoc(function)).description
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

        Arguments the schema does not name are refused, unless it has
        `additionalProperties`.
        """
        return cls(ToolDescription(name, description, parameters), function)

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def recipient(self) -> str:
        """The name as a call addresses it."""
        built_in = self.namespace is not None
        return self.name if built_in else FUNCTION_PREFIX + self.description.wire_name

    def run(
        self,
        arguments: str,
        *,
        seconds: float | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> str:
        """Call the function with JSON arguments; errors come back as text, too.

        A tool must never end a conversation: the model reads what went wrong. With
        a limit of `seconds`, the function runs in a thread of its own.
        """
        if self.function is None:
            return f"Error: `{self.name}` cannot be run here"
        if self.takes_text:
            values: dict[str, Any] = {}
        else:
            values, problem = self._parse_arguments(arguments)
            if problem:
                return f"Error: {problem}"
        try:
            return as_text(
                run_with_timeout(
                    lambda: self._call(arguments, values),
                    None if self.limits_itself else seconds,
                    is_async=_is_async(self.function),
                    cancelled=cancelled,
                    interrupt=self.interrupt,
                )
            )
        except CallTimeout:
            return f"Error: there was no result within {seconds:g} s"
        except CallInterrupted:
            return "Error: the call was interrupted"
        except GptOssError as error:
            return f"Error: {error}"
        except Exception as error:  # whatever a tool raises is for the model to read
            return f"Error: {type(error).__name__}: {error}"

    def _parse_arguments(self, arguments: str) -> tuple[Any, str]:
        """Return the arguments, and what is wrong with them."""
        schema = self._closed_schema()
        try:
            values = json.loads(arguments or "{}")
            problems = validate.errors(values, schema, schema)
            return values, "; ".join(problems)
        except ValueError as error:
            return None, f"the arguments are not valid JSON ({error})"
        except RecursionError:
            return None, "the arguments are nested too deeply"

    def _closed_schema(self) -> Schema:
        """The schema of the arguments, as it binds the model.

        Not of built-in tools: the model was trained with more than is told.
        """
        schema = self.description.parameters
        return (schema or {}) if self.namespace is not None else close_schema(schema)

    def _call(self, text: str, values: dict[str, Any]) -> Any:
        assert self.function is not None
        if self.takes_text:
            return self.function(text)
        schema = self.description.parameters or {}
        values = validate.integral(values, schema, schema)
        hints = signature.annotations(self.function)
        bound = inspect.signature(self.function).bind(
            **{
                name: signature.to_python(value, hints.get(name, Any))
                for name, value in values.items()
            }
        )
        return self.function(*bound.args, **bound.kwargs)


@runtime_checkable
class ToolSet(Protocol):
    """Tools that share a state, which `reset` puts back to its beginning."""

    @property
    def tools(self) -> Sequence[Tool]: ...
    def reset(self) -> None: ...


ToolLike = Tool | ToolDescription | ToolSet | Callable[..., Any] | Mapping[str, Any]


def tools_by_name(sources: Iterable[ToolLike]) -> dict[str, Tool]:
    """Make Tools of all `sources`; raises PromptError for two of one name."""
    found: dict[str, Tool] = {}
    for source in sources:
        own = source.tools if isinstance(source, ToolSet) else [as_tool(source)]
        for tool in own:
            names = [one.description.wire_name for one in found.values()]
            if tool.description.wire_name in names:
                raise PromptError(f"two tools are named `{tool.name}`: rename one")
            found[tool.name] = tool
    return found


def schema_problem(tool: ToolDescription) -> str | None:
    """Say why a tool's schema cannot stand in a prompt; None if it can."""
    try:
        shown = "" if tool.parameters is None else typescript(tool.parameters)
    except RecursionError:
        return "its schema is nested too deeply"
    if len(shown) > MAX_SCHEMA_CHARACTERS:
        return (
            f"its schema has {len(shown)} characters, more than {MAX_SCHEMA_CHARACTERS}"
        )
    return None


def as_tool(source: ToolLike) -> Tool:
    """Make a Tool of a function, a description, or an OpenAI `tools` entry."""
    if isinstance(source, Tool):
        return source
    if isinstance(source, ToolDescription):
        return Tool(source)
    if isinstance(source, Mapping):
        entry = source.get("function", source)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise PromptError("a tool given as a dict needs a `name`")
        given = entry.get("parameters")
        if given is not None and not isinstance(given, Mapping):
            raise PromptError(
                f"`parameters` of tool `{entry['name']}` are no JSON schema: "
                "give a dict"
            )
        return Tool.from_schema(
            entry["name"], entry.get("description") or "", entry.get("parameters")
        )
    if isinstance(source, ToolSet):
        raise PromptError(f"{type(source).__name__} is several tools: use its `tools`")
    return Tool.from_function(source)


def _is_async(function: Callable[..., Any]) -> bool:
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object
    return any(map(inspect.iscoroutinefunction, (function, called)))


def as_text(value: Any) -> str:
    """Write a result for the model: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
