"""Request fields of other servers, and the field of each API that they mean.

    FIELD_ALIASES            # a table, shown in README.md
    OWN_FIELDS[EFFORT][CHAT] # the field in which an API keeps a meaning

`alias_values.py` translates the values, `normalize.py` applies the table to a body.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_gptoss.api import alias_values as values
from mlx_gptoss.api.alias_values import ValueParser

CHAT, RESPONSES, MESSAGES, COMPLETIONS = "chat", "responses", "messages", "completions"
APIS = (CHAT, RESPONSES, MESSAGES, COMPLETIONS)

# The meanings, as the README names them.
EFFORT = "effort"
REASONING_LIMIT = "maximum reasoning tokens"
TOKEN_LIMIT = "maximum tokens"
ANSWER_FORMAT = "answer format"
REASONING_FORMAT = "reasoning field"
CHOICES = "number of choices"
STOP_STRINGS = "stop strings"
SAMPLING_FIELDS = ("temperature", "top_p", "top_k", "min_p", "seed")

FieldPaths = Mapping[str, str]  # by API; nested fields are joined by dots
OWN_FIELDS: Mapping[str, FieldPaths] = {
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
    **{name: dict.fromkeys(APIS, name) for name in SAMPLING_FIELDS},
}


@dataclass(frozen=True)
class FieldAlias:
    """Fields that clients of some servers send, and what they mean.

    `parse` raises ValueError, which says what it expected.
    """

    paths: tuple[str, ...]
    servers: str
    meaning: str
    parse: ValueParser


def _alias(paths: str, servers: str, meaning: str, parse: ValueParser) -> FieldAlias:
    return FieldAlias(tuple(paths.split()), servers, meaning, parse)


TEMPLATE_SERVERS = "vLLM, SGLang, llama.cpp"
FIELD_ALIASES = (
    _alias("reasoning_effort reasoning.effort", "all", EFFORT, values.parse_effort),
    _alias("output_config.effort", "Anthropic", EFFORT, values.parse_effort),
    _alias(
        "chat_template_kwargs.reasoning_effort",
        TEMPLATE_SERVERS,
        EFFORT,
        values.parse_effort,
    ),
    _alias(
        "chat_template_kwargs.enable_thinking chat_template_kwargs.thinking",
        TEMPLATE_SERVERS,
        EFFORT,
        values.parse_thinking_switch,
    ),
    _alias("enable_thinking", "Qwen's own API", EFFORT, values.parse_thinking_switch),
    _alias(
        "reasoning.enabled", "SGLang, OpenRouter", EFFORT, values.parse_thinking_switch
    ),
    _alias("think", "Ollama", EFFORT, values.parse_thinking_switch),
    _alias("thinking.type", "Anthropic", EFFORT, values.parse_thinking_type),
    _alias(
        "thinking.budget_tokens",
        "Anthropic",
        REASONING_LIMIT,
        values.parse_reasoning_limit,
    ),
    _alias(
        "max_reasoning_tokens", "ours", REASONING_LIMIT, values.parse_reasoning_limit
    ),
    _alias(
        "reasoning.max_tokens",
        "OpenRouter",
        REASONING_LIMIT,
        values.parse_reasoning_limit,
    ),
    _alias(
        "thinking_token_budget", "vLLM", REASONING_LIMIT, values.parse_reasoning_limit
    ),
    _alias(
        "reasoning_budget_tokens thinking_budget_tokens reasoning_budget",
        "llama.cpp",
        REASONING_LIMIT,
        values.parse_reasoning_limit,
    ),
    _alias(
        "thinking_budget chat_template_kwargs.thinking_budget",
        "Qwen's own API",
        REASONING_LIMIT,
        values.parse_reasoning_limit,
    ),
    _alias(
        "max_completion_tokens max_tokens max_output_tokens",
        "all",
        TOKEN_LIMIT,
        values.parse_token_limit,
    ),
    _alias("n_predict", "llama.cpp", TOKEN_LIMIT, values.parse_token_limit),
    _alias("max_new_tokens", "SGLang", TOKEN_LIMIT, values.parse_token_limit),
    _alias(
        "num_predict options.num_predict",
        "Ollama",
        TOKEN_LIMIT,
        values.parse_token_limit,
    ),
    _alias("response_format", "all", ANSWER_FORMAT, values.unparsed),
    _alias(
        "output_config.format output_format",
        "Anthropic",
        ANSWER_FORMAT,
        values.unparsed,
    ),
    _alias("json_schema", "llama.cpp, SGLang", ANSWER_FORMAT, values.parse_schema),
    _alias("grammar", "llama.cpp", ANSWER_FORMAT, values.parse_grammar),
    _alias("regex", "SGLang", ANSWER_FORMAT, values.parse_regex),
    _alias("ebnf", "SGLang", ANSWER_FORMAT, values.parse_grammar),
    _alias(
        "structured_outputs.json guided_json",
        "vLLM",
        ANSWER_FORMAT,
        values.parse_schema,
    ),
    _alias(
        "structured_outputs.regex guided_regex",
        "vLLM",
        ANSWER_FORMAT,
        values.parse_regex,
    ),
    _alias(
        "structured_outputs.choice guided_choice",
        "vLLM",
        ANSWER_FORMAT,
        values.parse_choice,
    ),
    _alias(
        "structured_outputs.grammar guided_grammar",
        "vLLM",
        ANSWER_FORMAT,
        values.parse_grammar,
    ),
    _alias(
        "structured_outputs.json_object guided_json_object",
        "vLLM",
        ANSWER_FORMAT,
        values.parse_json_object_switch,
    ),
    _alias(
        "structured_outputs.structural_tag structural_tag",
        "vLLM, SGLang",
        ANSWER_FORMAT,
        values.refuse_structural_tag,
    ),
    _alias("format", "Ollama", ANSWER_FORMAT, values.parse_ollama_format),
    _alias(
        "reasoning_format",
        "llama.cpp, Groq",
        REASONING_FORMAT,
        values.parse_reasoning_format,
    ),
    _alias("n_cmpl", "llama.cpp", CHOICES, values.unparsed),
    _alias(
        "stop stop_sequences options.stop",
        "all",
        STOP_STRINGS,
        values.parse_stop_strings,
    ),
    *(
        _alias(f"options.{name}", "Ollama", name, values.unparsed)
        for name in SAMPLING_FIELDS
    ),
)
# Every field with a meaning here, on whichever API it is sent.
KNOWN_PATHS = [path for alias in FIELD_ALIASES for path in alias.paths]
KNOWN_PATHS += [path for paths in OWN_FIELDS.values() for path in paths.values()]
