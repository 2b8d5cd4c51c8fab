"""`/v1/models` and `/health`."""

from fastapi import APIRouter
from starlette.requests import Request

from mlx_gptoss import __version__
from mlx_gptoss.api.models.wire import HealthReply, ListedModel, ModelList
from mlx_gptoss.server.guard import AUTHORIZED
from mlx_gptoss.server.models import ModelChoice, Models
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service

router = APIRouter(tags=["models"], responses=ERRORS)
OWNER = "mlx-gptoss"


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """List the models that requests may name, loaded or not, and their adapters."""
    models = Service.of(request).models
    await models.refresh_adapters()
    return ModelList(
        object="list", data=[describe(models, choice) for choice in models.choices]
    )


@router.get("/v1/models/{model:path}")
async def retrieve_model(model: str, request: Request) -> ListedModel:
    """Describe one model, or one with an adapter."""
    models = Service.of(request).models
    await models.refresh_adapters()
    choice = next((one for one in models.choices if one.name == model), None)
    if choice is None:
        raise models.not_found(model)
    return describe(models, choice)


@router.head("/health", include_in_schema=False)  # health checks may use HEAD
@router.get("/health", response_model_exclude_unset=True)
async def health(request: Request) -> HealthReply:
    """Report that the server runs; with the API key, also which models are loaded."""
    if not getattr(request.state, AUTHORIZED):
        return HealthReply(status="ok")
    models = Service.of(request).models
    return HealthReply(
        status="ok",
        version=__version__,
        models=models.names,
        loaded=models.loaded,
        running=models.active_leases,
    )


def describe(models: Models, choice: ModelChoice) -> ListedModel:
    runtime = models.runtime(choice.model)
    return ListedModel(
        id=choice.name,
        object="model",
        created=models.created,
        owned_by=OWNER,
        loaded=runtime is not None,
        context_length=runtime.longest_sequence if runtime else None,
        parent=None if choice.adapter is None else choice.model,
    )
