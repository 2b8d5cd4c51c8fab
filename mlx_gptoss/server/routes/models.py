"""`/v1/models` and `/health`."""

from fastapi import APIRouter
from starlette.requests import Request

from mlx_gptoss import __version__
from mlx_gptoss.api.errors import model_not_found
from mlx_gptoss.api.models.wire import HealthReply, ListedModel, ModelList
from mlx_gptoss.server.guard import AUTHORIZED
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service

router = APIRouter(tags=["models"], responses=ERRORS)
OWNER = "mlx-gptoss"


@router.get("/v1/models")
async def list_models(request: Request) -> ModelList:
    """List the models that requests may name, loaded or not."""
    models = Service.of(request).models
    return ModelList(
        object="list", data=[describe(models, name) for name in models.names]
    )


@router.get("/v1/models/{model:path}")
async def retrieve_model(model: str, request: Request) -> ListedModel:
    """Describe one model."""
    models = Service.of(request).models
    if model not in models.names:
        raise model_not_found(model, models.names)
    return describe(models, model)


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


def describe(models: Models, name: str) -> ListedModel:
    runtime = models.runtime(name)
    return ListedModel(
        id=name,
        object="model",
        created=models.created,
        owned_by=OWNER,
        loaded=runtime is not None,
        context_length=runtime.context if runtime else None,
    )
