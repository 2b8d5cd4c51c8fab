"""Ollama's lists of models, its version, and what is refused by name."""

import hashlib
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.ollama.durations import expiry, timestamp
from mlx_gptoss.api.ollama.model_wire import (
    OllamaDetails,
    OllamaListedModel,
    OllamaLoadedModel,
    OllamaLoadedModels,
    OllamaModelList,
    OllamaPullRequest,
    OllamaShownModel,
    OllamaShowRequest,
    OllamaStatus,
    OllamaVersion,
)
from mlx_gptoss.format.config import ModelConfig
from mlx_gptoss.server.bodies import AnyBodyRoute
from mlx_gptoss.server.model_facts import FORMAT, ModelFacts
from mlx_gptoss.server.models import ModelChoice, Models
from mlx_gptoss.server.routes import refuse_by_name
from mlx_gptoss.server.routes.ollama import ERRORS, served_name
from mlx_gptoss.server.service import Service
from mlx_gptoss.server.web.routes.assets import index

API_VERSION = "0.32.0"  # of Ollama, for clients that ask for a least one
FAMILY = "gptoss"  # as Ollama names it
CAPABILITIES: Any = ("completion", "tools", "thinking")
RUNNING = "Ollama is running"  # clients look for these words
HTML = "text/html"
NO_EMBEDDINGS = "this server has no embeddings: gpt-oss generates text only"
NO_CHANGES = (
    "models of this server are not changed over HTTP: on its machine, "
    "`mlx-gptoss pull` and `mlx-gptoss serve -m NAME` choose them"
)
REFUSED = {  # route and method to the reason
    ("/api/embed", "POST"): NO_EMBEDDINGS,
    ("/api/embeddings", "POST"): NO_EMBEDDINGS,
    ("/api/create", "POST"): NO_CHANGES,
    ("/api/copy", "POST"): NO_CHANGES,
    ("/api/delete", "DELETE"): NO_CHANGES,
    ("/api/push", "POST"): "this server sends no model anywhere",
    ("/api/blobs/{digest}", "HEAD"): NO_CHANGES,
    ("/api/blobs/{digest}", "POST"): NO_CHANGES,
}
router = APIRouter(tags=["ollama"], responses=ERRORS, route_class=AnyBodyRoute)


@router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
async def root(request: Request) -> Response:
    """Say that the server runs; browsers get the chat page, if there is one."""
    if request.app.state.page is not None and HTML in request.headers.get("accept", ""):
        shown = await index(request)
        shown.headers["vary"] = "accept"
        return shown
    return Response(RUNNING, media_type="text/plain", headers={"vary": "accept"})


@router.head("/api/version", include_in_schema=False)
@router.get("/api/version")
async def version() -> OllamaVersion:
    """Return the version of Ollama whose API this is."""
    return OllamaVersion(version=API_VERSION)


@router.head("/api/tags", include_in_schema=False)
@router.get("/api/tags")
async def list_tags(request: Request) -> OllamaModelList:
    """List the models that requests may name, and their adapters."""
    models = Service.of(request).models
    await models.refresh_adapters()
    return OllamaModelList(
        models=[await list_model(models, choice) for choice in models.choices]
    )


@router.get("/api/ps")
async def list_loaded(request: Request) -> OllamaLoadedModels:
    """List the models that are loaded, and when they are unloaded if nobody asks."""
    models = Service.of(request).models
    found = [await list_loaded_model(models, name) for name in models.loaded]
    return OllamaLoadedModels(models=[one for one in found if one is not None])


@router.post("/api/show")
async def show(body: OllamaShowRequest, request: Request) -> OllamaShownModel:
    """Describe a model."""
    models = Service.of(request).models
    await models.refresh_adapters()
    choice = models.resolve(served_name(models, body.named))
    facts = await models.facts(choice.model)
    context = models.context_length(choice.model, facts)
    parameters = default_parameters(Service.of(request), context)
    lines = [f"PARAMETER {line}" for line in parameters]
    return OllamaShownModel(
        modelfile="\n".join([f"FROM {choice.name}", *lines]) + "\n",
        parameters="\n".join(parameters),
        template="",
        details=details(choice, facts),
        model_info=model_info(body.named or choice.name, facts, context),
        capabilities=[*CAPABILITIES],
        modified_at=modified(models, facts),
    )


@router.post("/api/pull", include_in_schema=False)
async def pull(body: OllamaPullRequest, request: Request) -> OllamaStatus:
    """Succeed for a model that is served; nothing is downloaded for a request."""
    models = Service.of(request).models
    name = served_name(models, body.named)
    if name not in [choice.name for choice in models.choices]:
        raise ApiError(501, NO_CHANGES, "not_supported", "model")
    return OllamaStatus(status="success")


refuse_by_name(router, REFUSED)


async def list_model(models: Models, choice: ModelChoice) -> OllamaListedModel:
    facts = await models.facts(choice.model)
    return OllamaListedModel(
        name=choice.name,
        model=choice.name,
        modified_at=modified(models, facts),
        size=facts.bytes,
        digest=digest(choice, facts),
        details=details(choice, facts),
        capabilities=[*CAPABILITIES],
    )


async def list_loaded_model(models: Models, name: str) -> OllamaLoadedModel | None:
    facts, runtime = await models.facts(name), models.runtime(name)
    if runtime is None:  # unloaded meanwhile
        return None
    choice, size = ModelChoice(name), runtime.plan.total_bytes if runtime.plan else 0
    return OllamaLoadedModel(
        name=name,
        model=name,
        size=size,
        size_vram=size,
        digest=digest(choice, facts),
        details=details(choice, facts),
        expires_at=expiry(models.seconds_left(name)),
        context_length=runtime.longest_sequence or 0,
    )


def details(choice: ModelChoice, facts: ModelFacts) -> OllamaDetails:
    return OllamaDetails(
        parent_model="" if choice.adapter is None else choice.model,
        format=FORMAT,
        family=FAMILY,
        families=[FAMILY],
        parameter_size=facts.size_label,
        quantization_level=facts.storage,
    )


def digest(choice: ModelChoice, facts: ModelFacts) -> str:
    """Return the digest of a model; one with an adapter has a digest of its own."""
    known = facts.digest or choice.model
    if facts.digest and choice.adapter is None:
        return known
    return hashlib.sha256(f"{known} {choice.adapter}".encode()).hexdigest()


def modified(models: Models, facts: ModelFacts) -> str:
    return timestamp(models.created if facts.modified is None else facts.modified)


def default_parameters(service: Service, context: int | None) -> list[str]:
    """Return the defaults of options, one a line, as a Modelfile has them."""
    sampling = service.settings.sampling
    values = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    known = {"num_ctx": context} if context else {}
    return [f"{name:<30} {value:g}" for name, value in values.items()] + [
        f"{name:<30} {value}" for name, value in known.items()
    ]


def model_info(name: str, facts: ModelFacts, context: int | None) -> dict[str, Any]:
    """Return facts by the keys of GGUF files, as far as they are known."""
    info: dict[str, Any] = {
        "general.architecture": FAMILY,
        "general.basename": name,
        "general.parameter_count": facts.parameters,
        f"{FAMILY}.context_length": context,
    }
    if facts.config is not None:
        info |= architecture_info(facts.config)
    return {key: value for key, value in info.items() if value is not None}


def architecture_info(config: ModelConfig) -> dict[str, Any]:
    values = {
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.sliding_window": config.sliding_window,
        "attention.value_length": config.head_dim,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "expert_count": config.num_local_experts,
        "expert_feed_forward_length": config.intermediate_size,
        "expert_used_count": config.num_experts_per_tok,
        "rope.freq_base": config.rope_theta,
        "vocab_size": config.vocab_size,
    }
    return {f"{FAMILY}.{key}": value for key, value in values.items()}
