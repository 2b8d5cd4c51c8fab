"""`/v1/redact`: mask what is private in texts."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.redact.wire import (
    RedactedSpan,
    RedactedText,
    RedactReply,
    RedactRequest,
)
from mlx_gptoss.errors import ConfigError
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.redactor import ServedRedactor
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service, json_reply
from mlx_gptoss.server.stream import while_connected
from mlx_gptoss.workloads.redact import Field, Redactor

router = APIRouter(tags=["redact"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/v1/redact", response_model=RedactReply)
async def redact_texts(body: RedactRequest, request: Request) -> Response:
    """Mask names, addresses, numbers and secrets in texts, and say where they are."""
    service = Service.of(request)
    redactor = choose_redactor(body, service.redactor)
    size = service.body_size(request)
    reply = service.pools.run(size, write_reply, body, redactor, service.redactor)
    return json_reply(await while_connected(request, reply))


def choose_redactor(body: RedactRequest, served: ServedRedactor | None) -> Redactor:
    """Return a redactor with the settings of a request. Raises ApiError."""
    if served is None and not body.patterns_only:
        raise bad_request(
            "this server has no model for it: start it with --redact-model, or ask "
            "with `patterns_only`",
            param="patterns_only",
        )
    try:
        if served is None or body.patterns_only:
            return Redactor(None, keep=body.keep)
        return served.redactor.with_settings(
            min_confidence=body.min_confidence, favour=body.favour, keep=body.keep
        )
    except ConfigError as error:
        raise bad_request(str(error), param="keep") from error


def write_reply(
    body: RedactRequest, redactor: Redactor, served: ServedRedactor | None
) -> RedactReply:
    """Mask the texts of a request; runs in a thread."""
    found = redactor.redact_all([Field(text) for text in body.texts])
    named = None if served is None or body.patterns_only else served.name
    return RedactReply(
        object="redaction",
        model=named,
        results=[
            RedactedText(
                text=one.text, spans=[RedactedSpan(**fact) for fact in one.facts()]
            )
            for one in found
        ],
    )
