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

from mlx_gptoss.api.efforts import EFFORTS, NO_REASONING

CHAT, RESPONSES, MESSAGES, COMPLETIONS = "chat", "responses", "messages", "completions"
APIS = (CHAT, RESPONSES, MESSAGES, COMPLETIONS)

# What can be meant, as the table of the README has it.
EFFORT = "effort"
BUDGET = "most tokens of reasoning"
LIMIT = "most tokens"
FORMAT = "format of the answer"
SHOWN = "name of the reasoning"
CHOICES = "number of choices"
STOP = "stop strings"
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed")

Paths = Mapping[str, str]  # by API, a field within fields with dots between
OWN: Mapping[str, Paths] = {
    EFFORT: {
        CHAT: "reasoning_effort",
        RESPONSES: "reasoning.effort",
        MESSAGES: "output_config.effort",
    },
    BUDGET: {
        CHAT: "max_reasoning_tokens",
        RESPONSES: "reasoning.max_tokens",
        MESSAGES: "max_reasoning_tokens",
    },
    LIMIT: {
        CHAT: "max_completion_tokens",
        RESPONSES: "max_output_tokens",
        MESSAGES: "max_tokens",
        COMPLETIONS: "max_tokens",
    },
    FORMAT: {
        CHAT: "response_format",
        RESPONSES: "text.format",
        MESSAGES: "output_config.format",
    },
    SHOWN: {CHAT: "reasoning_format"},
    CHOICES: {CHAT: "n", COMPLETIONS: "n"},
    STOP: {
        CHAT: "stop",
        RESPONSES: "stop",
        MESSAGES: "stop_sequences",
        COMPLETIONS: "stop",
    },
    **{name: dict.fromkeys(APIS, name) for name in SAMPLING},
}

NO_LIMIT = -1
THINKS = "on"  # an effort that is not none, whichever it is
NAMES_OF_REASONING = {  # llama.cpp's and Groq's words
    "auto": "reasoning_content",
    "deepseek": "reasoning_content",
    "deepseek-legacy": "reasoning_content",
    "parsed": "reasoning",
}
RAW = ("none", "raw")  # reasoning among the text of the answer


class _Nothing:
    """A value that is not there."""


ABSENT, IGNORED = _Nothing(), _Nothing()
Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class Spelling:
    """Fields that are sent, by clients of which servers, and what they mean.

    `read` raises ValueError, which says what was expected.
    """

    paths: tuple[str, ...]
    by: str
    means: str
    read: Reader


def effort(value: Any) -> Any:
    """A word for an effort."""
    if isinstance(value, str) and value in EFFORTS:
        return value
    raise ValueError(f"give {', '.join(EFFORTS)}")


def thinks(value: Any) -> Any:
    """Whether to reason at all; a word is an effort."""
    if isinstance(value, bool):
        return THINKS if value else NO_REASONING
    if isinstance(value, str) and value in EFFORTS:
        return value
    raise ValueError("give true or false")


def thinking(value: Any) -> Any:
    """Anthropic's `type` of thinking."""
    if not isinstance(value, str):
        raise ValueError("give enabled or disabled")
    return NO_REASONING if value == "disabled" else THINKS


def most(value: Any) -> Any:
    """A number of tokens; -1, and Ollama's -2, are no limit."""
    if type(value) is int and (value >= 1 or value in (-1, -2)):
        return max(value, NO_LIMIT)
    raise ValueError("give a whole number, 1 or more, or -1 for no limit")


def budget(value: Any) -> Any:
    """A number of tokens of reasoning; -1 leaves it to the server."""
    if type(value) is int and value >= -1:
        return ABSENT if value == NO_LIMIT else value
    raise ValueError("give a whole number, 0 or more, or -1")


def texts(value: Any) -> Any:
    """Strings that end an answer; one may stand alone."""
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, list) and all(isinstance(one, str) for one in listed):
        return listed
    raise ValueError("give a text, or a list of texts")


def plain(value: Any) -> Any:
    """What is checked where it stands with us."""
    return value


def schema(value: Any) -> Any:
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


def format_of(value: Any) -> Any:
    """Ollama's `format`: "json", or a schema."""
    if value == "":
        return ABSENT
    if value == "json":
        return {"type": "json_object"}
    if isinstance(value, dict):
        return schema(value)
    raise ValueError('give "json", or a JSON schema')


def any_object(value: Any) -> Any:
    if isinstance(value, bool):
        return {"type": "json_object"} if value else ABSENT
    raise ValueError("give true or false")


def regex(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "regex", "regex": value} if value else ABSENT
    raise ValueError("give a regular expression")


def grammar(value: Any) -> Any:
    if isinstance(value, str):
        return {"type": "grammar", "grammar": value} if value else ABSENT
    raise ValueError("give a grammar, in GBNF or Lark")


def choice(value: Any) -> Any:
    """One of several texts, as a regular expression."""
    if isinstance(value, list) and value and all(isinstance(x, str) for x in value):
        options = ("".join(f"\\x{{{ord(c):x}}}" for c in one) for one in value)
        return {"type": "regex", "regex": "|".join(f"(?:{one})" for one in options)}
    raise ValueError("give a list of texts")


def structural_tag(value: Any) -> Any:
    raise ValueError(
        "structural tags are not enforced here: offer functions as `tools`, or give a "
        "`response_format`"
    )


def shown(value: Any) -> Any:
    """llama.cpp's or Groq's word for where reasoning is to stand."""
    if value in RAW:
        return IGNORED
    return NAMES_OF_REASONING.get(value, value) if isinstance(value, str) else value


TEMPLATE = "vLLM, SGLang, llama.cpp"
SPELLINGS = (
    Spelling(("reasoning_effort", "reasoning.effort"), "all", EFFORT, effort),
    Spelling(("output_config.effort",), "Anthropic", EFFORT, effort),
    Spelling(("chat_template_kwargs.reasoning_effort",), TEMPLATE, EFFORT, effort),
    Spelling(
        ("chat_template_kwargs.enable_thinking", "chat_template_kwargs.thinking"),
        TEMPLATE,
        EFFORT,
        thinks,
    ),
    Spelling(("enable_thinking",), "Qwen's own API", EFFORT, thinks),
    Spelling(("reasoning.enabled",), "SGLang, OpenRouter", EFFORT, thinks),
    Spelling(("think",), "Ollama", EFFORT, thinks),
    Spelling(("thinking.type",), "Anthropic", EFFORT, thinking),
    Spelling(("thinking.budget_tokens",), "Anthropic", BUDGET, budget),
    Spelling(("max_reasoning_tokens",), "ours", BUDGET, budget),
    Spelling(("reasoning.max_tokens",), "OpenRouter", BUDGET, budget),
    Spelling(("thinking_token_budget",), "vLLM", BUDGET, budget),
    Spelling(
        ("reasoning_budget_tokens", "thinking_budget_tokens", "reasoning_budget"),
        "llama.cpp",
        BUDGET,
        budget,
    ),
    Spelling(
        ("thinking_budget", "chat_template_kwargs.thinking_budget"),
        "Qwen's own API",
        BUDGET,
        budget,
    ),
    Spelling(
        ("max_completion_tokens", "max_tokens", "max_output_tokens"),
        "all",
        LIMIT,
        most,
    ),
    Spelling(("n_predict",), "llama.cpp", LIMIT, most),
    Spelling(("max_new_tokens",), "SGLang", LIMIT, most),
    Spelling(("num_predict", "options.num_predict"), "Ollama", LIMIT, most),
    Spelling(("response_format",), "all", FORMAT, plain),
    Spelling(("output_config.format", "output_format"), "Anthropic", FORMAT, plain),
    Spelling(("json_schema",), "llama.cpp, SGLang", FORMAT, schema),
    Spelling(("grammar",), "llama.cpp", FORMAT, grammar),
    Spelling(("regex",), "SGLang", FORMAT, regex),
    Spelling(("ebnf",), "SGLang", FORMAT, grammar),
    Spelling(("structured_outputs.json", "guided_json"), "vLLM", FORMAT, schema),
    Spelling(("structured_outputs.regex", "guided_regex"), "vLLM", FORMAT, regex),
    Spelling(("structured_outputs.choice", "guided_choice"), "vLLM", FORMAT, choice),
    Spelling(("structured_outputs.grammar", "guided_grammar"), "vLLM", FORMAT, grammar),
    Spelling(
        ("structured_outputs.json_object", "guided_json_object"),
        "vLLM",
        FORMAT,
        any_object,
    ),
    Spelling(
        ("structured_outputs.structural_tag", "structural_tag"),
        "vLLM, SGLang",
        FORMAT,
        structural_tag,
    ),
    Spelling(("format",), "Ollama", FORMAT, format_of),
    Spelling(("reasoning_format",), "llama.cpp, Groq", SHOWN, shown),
    Spelling(("n_cmpl",), "llama.cpp", CHOICES, plain),
    Spelling(("stop", "stop_sequences", "options.stop"), "all", STOP, texts),
    *(Spelling((f"options.{name}",), "Ollama", name, plain) for name in SAMPLING),
)
# Every field that has a meaning here, wherever it is sent.
PATHS = [path for one in SPELLINGS for path in one.paths]
PATHS += [path for paths in OWN.values() for path in paths.values()]
