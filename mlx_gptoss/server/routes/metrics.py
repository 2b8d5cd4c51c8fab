"""`/metrics` for Prometheus."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.server.service import Service

router = APIRouter(tags=["operation"])


@router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return metrics in Prometheus' text format."""
    text = Service.of(request).metrics.text
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})
