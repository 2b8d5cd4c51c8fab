"""A tool the model may call: from a Python function or from a JSON schema.

    tool = Tool.from_function(get_weather)           # signature and docstring
    tool = Tool.from_schema("get_weather", "...", {"type": "object", ...})
    tool.run('{"city": "Paris"}')                    # -> text for the model

A tool without a function is only described to the model: its calls are handed to
the caller. Knows nothing of chats.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony import validate
from mlx_gptoss.harmony.messages import ToolDescription
from mlx_gptoss.tools import signature
from mlx_gptoss.tools.docstring import read_docstring

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Tool:
    """What the model reads of a tool, and the function that does the work."""

    description: ToolDescription
    function: Callable[..., Any] | None = None

    @classmethod
    def from_function(cls, function: Callable[..., Any]) -> "Tool":
        """Describe `function` by its name, docstring, annotations and defaults.

        Raises PromptError for parameters or types that JSON cannot carry.
        """
        name = getattr(function, "__name__", type(function).__name__)
        if name == "<lambda>":
            raise PromptError("a lambda has no name to call it by: use a `def`")
        if inspect.iscoroutinefunction(function):
            raise PromptError(
                f"tool `{name}` is async: wrap it in a function that waits for it"
            )
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

    def run(self, arguments: str) -> str:
        """Call the function with JSON arguments; errors come back as text, too.

        A tool must never end a conversation: the model reads what went wrong.
        """
        if self.function is None:
            return f"Error: `{self.name}` cannot be run here"
        try:
            values = json.loads(arguments or "{}")
        except ValueError as error:
            return f"Error: the arguments are not valid JSON ({error})"
        schema = self.description.parameters
        if problems := list(
            validate.errors(values, self._closed_schema(), schema or {})
        ):
            return "Error: " + "; ".join(problems)
        try:
            return as_text(self._call(self.function, values, schema or {}))
        except Exception as error:  # whatever a tool raises is for the model to read
            return f"Error: {type(error).__name__}: {error}"

    def _closed_schema(self) -> Schema:
        """The schema of the arguments; unknown ones are refused unless it says so."""
        schema = self.description.parameters or {}
        if "$ref" in schema:
            return schema
        return {"type": "object", "additionalProperties": False, **schema}

    def _call(
        self, function: Callable[..., Any], values: dict[str, Any], schema: Schema
    ) -> Any:
        values = validate.integral(values, schema, schema)
        hints = signature.annotations(function)
        bound = inspect.signature(function).bind(
            **{
                name: signature.to_python(value, hints.get(name, Any))
                for name, value in values.items()
            }
        )
        return function(*bound.args, **bound.kwargs)


ToolLike = Tool | ToolDescription | Callable[..., Any] | Mapping[str, Any]


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
        return Tool.from_schema(
            entry["name"], entry.get("description") or "", entry.get("parameters")
        )
    return Tool.from_function(source)


def as_text(value: Any) -> str:
    """Write a result for the model: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
