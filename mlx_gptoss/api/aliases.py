"""Fields as clients of other servers send them, and which of ours each one is.

    SPELLINGS             # a table: the README shows it, `respelled` reads by it
    OWN[EFFORT][CHAT]     # where an API itself has what is meant

A reader returns what is meant in our own words. ABSENT stands for a value that asks for
nothing, IGNORED for one that asks for something that is not done here. Knows JSON
values; nothing of requests.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.api.efforts import EFFORT_BY_NAME, NO_REASONING

CHAT, RESPONSES, MESSAGES, COMPLETIONS = "chat", "responses", "messages", "completions"
APIS = (CHAT, RESPONSES, MESSAGES, COMPLETIONS)

# What can be meant, as the table of the README has it.
EFFORT = "effort"
REASONING_LIMIT = "most tokens of reasoning"
TOKEN_LIMIT = "most tokens"
ANSWER_FORMAT = "format of the answer"
REASONING_FORMAT = "name of the reasoning"
CHOICES = "number of choices"
STOP_STRINGS = "stop strings"
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")

Paths = Mapping[str, str]  # by API, a field within fields with dots between
OWN_FIELDS: Mapping[str, Paths] = {
    EFFORT: {
        CHAT: "reasoning_effort",
        RESPONSES: "reasoning.effort",
        MESSAGES: "output_config.effort",
    },
    REASONING_LIMIT: {
        CHAT: "max_reasoning_tokens",
        RESPONSES: "reasoning.max_tokens",
        MESSAGES: "max_reasoning_tokens",
    },
    TOKEN_LIMIT: {
        CHAT: "max_completion_tokens",
        RESPONSES: "max_output_tokens",
        MESSAGES: "max_tokens",
        COMPLETIONS: "max_tokens",
    },
    ANSWER_FORMAT: {
        CHAT: "response_format",
        RESPONSES: "text.format",
        MESSAGES: "output_config.format",
    },
    REASONING_FORMAT: {CHAT: "reasoning_format"},
    CHOICES: {CHAT: "n", COMPLETIONS: "n"},
    STOP_STRINGS: {
        CHAT: "stop",
        RESPONSES: "stop",
        MESSAGES: "stop_sequences",
        COMPLETIONS: "stop",
    },
    **{name: dict.fromkeys(APIS, name) for name in SAMPLING},
}

NO_LIMIT = -1
SOME_REASONING = "on"  # an effort that is not none, whichever it is
REASONING_FIELD_BY_FORMAT = {  # llama.cpp's and Groq's words
    "auto": "reasoning_content",
    "deepseek": "reasoning_content",
    "deepseek-legacy": "reasoning_content",
    "parsed": "reasoning",
}
RAW_FORMATS = ("none", "raw")  # reasoning among the text of the answer


class _Marker:
    """A value that is not there."""


ABSENT, IGNORED = _Marker(), _Marker()
ValueParser = Callable[[Any], Any]


@dataclass(frozen=True)
class FieldAlias:
    """Fields that are sent, by clients of which servers, and what they mean.

    `read` raises ValueError, which says what was expected.
    """

    paths: tuple[str, ...]
    servers: str
    meaning: str
    parse: ValueParser


def parse_effort(value: Any) -> Any:
    """A word for an effort."""
    if isinstance(value, str) and value in EFFORT_BY_NAME:
        return value
    raise ValueError(f"give {', '.join(EFFORT_BY_NAME)}")


def parse_thinking_switch(value: Any) -> Any:
    """Whether to reason at all; a word is an effort."""
    if isinstance(value, bool):
        return SOME_REASONING if value else NO_REASONING
    if isinstance(value, str) and value in EFFORT_BY_NAME:
        return value
    raise ValueError("give true or false")


def parse_thinking_type(value: Any) -> Any:
    """Anthropic's `type` of thinking."""
    if not isinstance(value, str):
        raise ValueError("give enabled or disabled")
    return NO_REASONING if value == "disabled" else SOME_REASONING


def parse_token_limit(value: Any) -> Any:
    """A number of tokens; -1, and Ollama's -2, are no limit."""
    if type(value) is int and (value >= 1 or value in (-1, -2)):
        return max(value, NO_LIMIT)
    raise ValueError("give a whole number, 1 or more, or -1 for no limit")


def parse_reasoning_limit(value: Any) -> Any:
    """A number of tokens of reasoning; -1 leaves it to the server."""
    if type(value) is int and value >= -1:
        return ABSENT if value == NO_LIMIT else value
    raise ValueError("give a whole number, 0 or more, or -1")


def parse_stop_strings(value: Any) -> Any:
    """Strings that end an answer; one may stand alone."""
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
        return listed
    raise ValueError("give a text, or a list of texts")


def unparsed(value: Any) -> Any:
    """What is checked where it stands with us."""
    return value


def parse_schema(value: Any) -> Any:
    """A JSON schema, or one as a text; perhaps with a name, as OpenAI has it."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(
                "give a JSON schema, as an object or as its text"
            ) from None
    if not isinstance(value, dict):
        raise ValueError("give a JSON schema, as an object or as its text")
    named = isinstance(value.get("schema"), dict)  # which is no keyword of a schema
    return {"type": "json_schema", "json_schema": value if named else {"schema": value}}


def parse_ollama_format(value: Any) -> Any:
    """Ollama's `format`: "json", or a schema."""
    if value == "":
        return ABSENT
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return parse_schema(value)
    raise ValueError('give "json", or a JSON schema')


def parse_json_object_switch(value: Any) -> Any:
    if isinstance(value, bool):
        return {"type": "json_object"} if value else ABSENT
    raise ValueError("give true or false")


def parse_regex(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "regex", "regex": value} if value else ABSENT
    raise ValueError("give a regular expression")


def parse_grammar(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "grammar", "grammar": value} if value else ABSENT
    raise ValueError("give a grammar, in GBNF or Lark")


def parse_choice(value: Any) -> Any:
    """One of several texts, as a regular expression."""
    if isinstance(value, list) and value and all(isinstance(x, str) for x in value):
        options = ("".join(f"\\x{{{ord(c):x}}}" for c in one) for one in value)
        return {"type": "regex", "regex": "|".join(f"(?:{one})" for one in options)}
    raise ValueError("give a list of texts")


def refuse_structural_tag(value: Any) -> Any:
    raise ValueError(
        "structural tags are not enforced here: offer functions as `tools`, or give a "
        "`response_format`"
    )


def parse_reasoning_format(value: Any) -> Any:
    """llama.cpp's or Groq's word for where reasoning is to stand."""
    if value in RAW_FORMATS:
        return IGNORED
    return (
        REASONING_FIELD_BY_FORMAT.get(value, value) if isinstance(value, str) else value
    )


TEMPLATE_SERVERS = "vLLM, SGLang, llama.cpp"
FIELD_ALIASES = (
    FieldAlias(("reasoning_effort", "reasoning.effort"), "all", EFFORT, parse_effort),
    FieldAlias(("output_config.effort",), "Anthropic", EFFORT, parse_effort),
    FieldAlias(
        ("chat_template_kwargs.reasoning_effort",),
        TEMPLATE_SERVERS,
        EFFORT,
        parse_effort,
    ),
    FieldAlias(
        ("chat_template_kwargs.enable_thinking", "chat_template_kwargs.thinking"),
        TEMPLATE_SERVERS,
        EFFORT,
        parse_thinking_switch,
    ),
    FieldAlias(("enable_thinking",), "Qwen's own API", EFFORT, parse_thinking_switch),
    FieldAlias(
        ("reasoning.enabled",), "SGLang, OpenRouter", EFFORT, parse_thinking_switch
    ),
    FieldAlias(("think",), "Ollama", EFFORT, parse_thinking_switch),
    FieldAlias(("thinking.type",), "Anthropic", EFFORT, parse_thinking_type),
    FieldAlias(
        ("thinking.budget_tokens",), "Anthropic", REASONING_LIMIT, parse_reasoning_limit
    ),
    FieldAlias(
        ("max_reasoning_tokens",), "ours", REASONING_LIMIT, parse_reasoning_limit
    ),
    FieldAlias(
        ("reasoning.max_tokens",), "OpenRouter", REASONING_LIMIT, parse_reasoning_limit
    ),
    FieldAlias(
        ("thinking_token_budget",), "vLLM", REASONING_LIMIT, parse_reasoning_limit
    ),
    FieldAlias(
        ("reasoning_budget_tokens", "thinking_budget_tokens", "reasoning_budget"),
        "llama.cpp",
        REASONING_LIMIT,
        parse_reasoning_limit,
    ),
    FieldAlias(
        ("thinking_budget", "chat_template_kwargs.thinking_budget"),
        "Qwen's own API",
        REASONING_LIMIT,
        parse_reasoning_limit,
    ),
    FieldAlias(
        ("max_completion_tokens", "max_tokens", "max_output_tokens"),
        "all",
        TOKEN_LIMIT,
        parse_token_limit,
    ),
    FieldAlias(("n_predict",), "llama.cpp", TOKEN_LIMIT, parse_token_limit),
    FieldAlias(("max_new_tokens",), "SGLang", TOKEN_LIMIT, parse_token_limit),
    FieldAlias(
        ("num_predict", "options.num_predict"), "Ollama", TOKEN_LIMIT, parse_token_limit
    ),
    FieldAlias(("response_format",), "all", ANSWER_FORMAT, unparsed),
    FieldAlias(
        ("output_config.format", "output_format"), "Anthropic", ANSWER_FORMAT, unparsed
    ),
    FieldAlias(("json_schema",), "llama.cpp, SGLang", ANSWER_FORMAT, parse_schema),
    FieldAlias(("grammar",), "llama.cpp", ANSWER_FORMAT, parse_grammar),
    FieldAlias(("regex",), "SGLang", ANSWER_FORMAT, parse_regex),
    FieldAlias(("ebnf",), "SGLang", ANSWER_FORMAT, parse_grammar),
    FieldAlias(
        ("structured_outputs.json", "guided_json"), "vLLM", ANSWER_FORMAT, parse_schema
    ),
    FieldAlias(
        ("structured_outputs.regex", "guided_regex"), "vLLM", ANSWER_FORMAT, parse_regex
    ),
    FieldAlias(
        ("structured_outputs.choice", "guided_choice"),
        "vLLM",
        ANSWER_FORMAT,
        parse_choice,
    ),
    FieldAlias(
        ("structured_outputs.grammar", "guided_grammar"),
        "vLLM",
        ANSWER_FORMAT,
        parse_grammar,
    ),
    FieldAlias(
        ("structured_outputs.json_object", "guided_json_object"),
        "vLLM",
        ANSWER_FORMAT,
        parse_json_object_switch,
    ),
    FieldAlias(
        ("structured_outputs.structural_tag", "structural_tag"),
        "vLLM, SGLang",
        ANSWER_FORMAT,
        refuse_structural_tag,
    ),
    FieldAlias(("format",), "Ollama", ANSWER_FORMAT, parse_ollama_format),
    FieldAlias(
        ("reasoning_format",),
        "llama.cpp, Groq",
        REASONING_FORMAT,
        parse_reasoning_format,
    ),
    FieldAlias(("n_cmpl",), "llama.cpp", CHOICES, unparsed),
    FieldAlias(
        ("stop", "stop_sequences", "options.stop"),
        "all",
        STOP_STRINGS,
        parse_stop_strings,
    ),
    *(FieldAlias((f"options.{name}",), "Ollama", name, unparsed) for name in SAMPLING),
)
# Every field that has a meaning here, wherever it is sent.
KNOWN_PATHS = [path for one in FIELD_ALIASES for path in one.paths]
KNOWN_PATHS += [path for paths in OWN_FIELDS.values() for path in paths.values()]
