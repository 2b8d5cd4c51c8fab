"""Settings files read by others than us, and what `agents setup` is to make of them.

TOML by `tomllib`, YAML by PyYAML (what aider reads with), JSON by the standard library
once comments and last commas are taken out by regular expressions.
"""

import copy
import json
import re
import tomllib
from collections.abc import Callable
from typing import Any

import yaml

from mlx_gptoss.diagnostics.agents.endpoint import Endpoint

STRING = r'("(?:\\.|[^"\\])*")'
CODEX_KEYS = ("model", "model_provider", "model_context_window", "model_providers")


def read(kind: str, text: str) -> Any:
    text = text.removeprefix("\ufeff")
    return READERS[kind](text)


def _json(text: str) -> Any:
    bare = re.sub(
        STRING + r"|//[^\n]*|/\*.*?\*/", lambda m: m[1] or "", text, flags=re.DOTALL
    )
    bare = re.sub(STRING + r"|,(?=\s*[}\]])", lambda m: m[1] or "", bare)
    return json.loads(bare) if bare.strip() else {}


READERS: dict[str, Callable[[str], Any]] = {
    "toml": tomllib.loads,
    "yaml": lambda text: yaml.safe_load(text) or {},
    "json": _json,
}


def _codex(data: Any, end: Endpoint) -> Any:
    providers = data.get("model_providers", {})
    ours = providers.get("mlx-gptoss", {})
    ours = {k: v for k, v in ours.items() if k != "experimental_bearer_token"}
    ours |= {"name": "mlx_gptoss", "base_url": end.v1, "wire_api": "responses"}
    ours |= {"experimental_bearer_token": end.key} if end.key else {}
    return data | {
        "model": end.model,
        "model_provider": "mlx-gptoss",
        "model_context_window": end.context,
        "model_providers": providers | {"mlx-gptoss": ours},
    }


def _aider(data: Any, end: Endpoint) -> Any:
    return data | {
        "model": f"openai/{end.model}",
        "openai-api-base": end.v1,
        "openai-api-key": end.key or "none",
    }


def _opencode(data: Any, end: Endpoint) -> Any:
    providers = data.get("provider", {})
    ours = providers.get("mlx-gptoss", {})
    model = ours.get("models", {}).get(end.model, {})
    limit = {"context": end.context, "output": min(32_768, end.context // 2)}
    model = model | {
        "name": end.model,
        "reasoning": True,
        "tool_call": True,
        "limit": model.get("limit", {}) | limit,
    }
    ours = ours | {
        "npm": "@ai-sdk/openai-compatible",
        "name": "mlx_gptoss",
        "options": ours.get("options", {})
        | {"baseURL": end.v1, "apiKey": end.key or "none"},
        "models": ours.get("models", {}) | {end.model: model},
    }
    return (
        {"$schema": "https://opencode.ai/config.json"}
        | data
        | {
            "provider": providers | {"mlx-gptoss": ours},
            "model": f"mlx-gptoss/{end.model}",
        }
    )


def _continue(data: Any, end: Endpoint) -> Any:
    wanted = {
        "name": f"{end.model} (mlx_gptoss)",
        "provider": "openai",
        "model": end.model,
        "apiBase": end.v1,
        "apiKey": end.key or "none",
        "roles": ["chat", "edit", "apply", "summarize"],
        "capabilities": ["tool_use"],
    }

    def set_up(model: Any) -> Any:
        options = model.get("defaultCompletionOptions") or {}
        options = options | {"contextLength": end.context}
        return model | wanted | {"defaultCompletionOptions": options}

    models = data.get("models") or []
    ours = [one for one in models if one.get("name") == wanted["name"]]
    others = [one for one in models if one.get("name") != wanted["name"]]
    models = [set_up(ours[0] if ours else {}), *others]
    head = {"name": "Local Config", "version": "1.0.0", "schema": "v1"}
    return head | data | {"models": models}


def _cline(data: Any, end: Endpoint) -> Any:
    providers = data.get("providers", {})
    ours = providers.get("openai-compatible", {})
    kept = ours.get("settings", {}) | {
        "provider": "openai-compatible",
        "apiKey": end.key or "none",
        "model": end.model,
        "baseUrl": end.v1,
    }
    ours = ours | {"settings": kept, "tokenSource": "manual"}
    return (
        {"version": 1}
        | data
        | {
            "lastUsedProvider": "openai-compatible",
            "providers": providers | {"openai-compatible": ours},
        }
    )


def _claude_code(data: Any, end: Endpoint) -> Any:
    models = ("MODEL", "DEFAULT_OPUS_MODEL", "DEFAULT_SONNET_MODEL")
    names = (*models, "DEFAULT_HAIKU_MODEL")
    wanted = {f"ANTHROPIC_{name}": end.model for name in names}
    wanted |= {
        "ANTHROPIC_BASE_URL": end.url,
        "ANTHROPIC_AUTH_TOKEN": end.key or "none",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_AUTO_COMPACT_WINDOW": str(end.context),
    }
    return data | {"env": data.get("env", {}) | wanted}


EXPECTED: dict[str, Callable[[Any, Endpoint], Any]] = {
    "codex": _codex,
    "opencode": _opencode,
    "aider": _aider,
    "continue": _continue,
    "cline": _cline,
    "claude-code": _claude_code,
}


def expected(tool: str, data: Any, endpoint: Endpoint) -> Any:
    """What the settings of a tool must say once it was set up."""
    return EXPECTED[tool](copy.deepcopy(data), endpoint)
