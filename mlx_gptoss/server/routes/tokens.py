"""`/tokenize` and `/detokenize`: token ids of texts and conversations, and back."""

from functools import partial

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from mlx_gptoss.api.tokens.request import detokenize, tokenize
from mlx_gptoss.api.tokens.wire import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
)
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.routes import ERRORS
from mlx_gptoss.server.service import Service, json_reply

router = APIRouter(tags=["tokens"], responses=ERRORS, route_class=JsonBodyRoute)


@router.post("/tokenize", response_model=TokenizeReply)
async def tokenize_text(body: TokenizeRequest, request: Request) -> Response:
    """Return the token ids of a text, or of the prompt of a chat completion."""
    service = Service.of(request)
    work = partial(tokenize, body, settings=service.settings, restore=service.restore)
    try:
        return json_reply(await service.run(request, body.model, work))
    except ValidationError as error:  # of the fields of a chat completion
        raise RequestValidationError(error.errors()) from None


@router.post("/detokenize", response_model=DetokenizeReply)
async def detokenize_tokens(body: DetokenizeRequest, request: Request) -> Response:
    """Return the text of token ids."""
    service = Service.of(request)
    return json_reply(await service.run(request, body.model, partial(detokenize, body)))
