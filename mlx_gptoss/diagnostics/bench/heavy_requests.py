"""Requests that are expensive for the server, whether it accepts or refuses them.

All are within its limits on bytes. Builds request bodies; sends nothing.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlx_gptoss.checkpoint.tokenizer import Tokenizer

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
LARGEST = 31 * 10**6  # bytes of text; the limit of a body is 32 MiB
MESSAGES, IDS, TOOLS, FIELDS = 100_000, 500_000, 256, 6
SEED = 13
WORDS = ["the", "river", "was", "wide", "and", "slow", "that", "year", "so", "they"]
KINDS: tuple[dict[str, Any], ...] = (
    {"type": "string", "enum": ["metric", "imperial", "both"]},
    {"type": "integer", "minimum": 0, "maximum": 1000},
    {"type": "array", "items": {"type": "string"}, "maxItems": 9},
    {"anyOf": [{"type": "number"}, {"type": "null"}]},
)
PATTERN = "([a-z]{3,9} ){300}"


@dataclass(frozen=True)
class HeavyRequest:
    """One request: name, path and body."""

    name: str
    path: str
    body: bytes


def heavy_requests(
    tokenizer: Tokenizer, context: int
) -> dict[str, Callable[[], HeavyRequest]]:
    """Return functions that build the requests, by name; the bodies are large."""
    bound = min(LARGEST, context * longest_token(tokenizer) * 9 // 10)
    return {
        "31 MB prompt": lambda: prompt("31 MB prompt", LARGEST),
        "prompt inside the bound": lambda: prompt("prompt inside the bound", bound),
        "256 tools": tools,
        "costly regex": regex,
        "100,000 messages": messages,
        "500,000 ids": ids,
    }


def longest_token(tokenizer: Tokenizer) -> int:
    """Return the bytes of the longest text token."""
    return max(len(tokenizer.token_bytes(token)) for token in tokenizer.text_ids)


def prompt(name: str, size: int) -> HeavyRequest:
    rng = random.Random(SEED)
    text = " ".join(rng.choices(WORDS, k=20_000)) + " "
    whole = (text * (size // len(text) + 1))[:size]
    return HeavyRequest(name, CHAT, chat_body([user(whole)]))


def tools() -> HeavyRequest:
    """Offer tools whose schemas are all compiled before the last one is refused."""
    offered: list[dict[str, Any]] = [
        {
            "type": "function",
            "function": {
                "name": f"tool_{at}",
                "description": f"Tool {at}.",
                "parameters": {
                    "type": "object",
                    "properties": {
                        f"field_{n}_{at}": KINDS[(n + at) % len(KINDS)]
                        for n in range(FIELDS)
                    },
                    "required": [f"field_0_{at}"],
                },
            },
        }
        for at in range(TOOLS)
    ]
    last = offered[-1]["function"]
    last["parameters"]["properties"] = {"field": {"not": {"type": "string"}}}
    offered[-1]["function"] = {**last, "strict": True}
    asked = chat_body([user("Hi")], tools=offered, tool_choice="required")
    return HeavyRequest("256 tools", CHAT, asked)


def regex() -> HeavyRequest:
    bound = {"type": "regex", "regex": PATTERN}
    asked = chat_body([user("Hi")], response_format=bound, reasoning_effort="none")
    return HeavyRequest("costly regex", CHAT, asked)


def messages() -> HeavyRequest:
    return HeavyRequest("100,000 messages", CHAT, chat_body([user("Hi")] * MESSAGES))


def ids() -> HeavyRequest:
    body = {"prompt": [1] * IDS, "max_tokens": 1}
    return HeavyRequest("500,000 ids", RAW, json.dumps(body).encode())


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def chat_body(conversation: list[Any], **more: Any) -> bytes:
    body = {"messages": conversation, "max_tokens": 16, **more}
    return json.dumps(body).encode()
