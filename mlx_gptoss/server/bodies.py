"""JSON bodies of requests, parsed without blocking the event loop.

    router = APIRouter(route_class=JsonBodyRoute)
    router = APIRouter(route_class=AnyBodyRoute)   # whatever type a body is said to be

Short bodies are parsed on the event loop by FastAPI, longer ones and those with tools
in a thread; bodies of many values use a decoder that releases the GIL. Oversized bodies
are rejected before they are validated. Knows JSON and FastAPI.
"""

import json
import json.scanner
import re
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.limits import check_count
from mlx_gptoss.api.settings import RequestLimits

SHORT_BODY = 2**15  # bytes: a few milliseconds
MANY_VALUES = 2**14  # values
CONTENT_TYPE = b"content-type"
TOOLS_KEY = b'"tools"'  # tools are parsed and checked in threads only
BODY = "body"  # the parameter name in routes
VALUE_MARKS = (b",", b"[", b"{")  # one precedes each value
QUOTE = b'"'
STRING_CHUNK = re.compile(
    rb'(?:[^"\\]++|\\.){0,4096}+', re.DOTALL
)  # bounded, to release the GIL
UNSET: Any = object()


class YieldingDecoder(json.JSONDecoder):
    """Decode JSON in Python: slower than in C, but other threads run meanwhile."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scan_once = json.scanner.py_make_scanner(self)  # pyright: ignore[reportAttributeAccessIssue]


class BodyRequest(Request):
    """A request that drops the bytes of its body once they are parsed."""

    value: Any = UNSET

    async def read(self, model: type[BaseModel]) -> None:
        """Read the body; parse it if it is long or has tools, as `parse_body` does."""
        body = await super().body()
        self.state.body_bytes = len(body)
        short = len(body) <= SHORT_BODY and TOOLS_KEY not in body
        if short or not is_json(self.headers.get("content-type", "")):
            return
        service = self.app.state.service
        limits = service.settings.limits
        self.value = await service.pools.run(len(body), parse_body, body, model, limits)
        self._body = b"{}"  # free the bytes

    async def json(self) -> Any:
        return await super().json() if self.value is UNSET else self.value


class JsonBodyRoute(APIRoute):
    """A route whose `body` is parsed by `BodyRequest`."""

    any_type: ClassVar[bool] = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        model = get_type_hints(self.endpoint).get(BODY)
        if model is None:
            return handle

        async def read_and_handle(request: Request) -> Response:
            scope = as_json(request.scope) if self.any_type else request.scope
            own = BodyRequest(scope, request.receive)
            try:
                await own.read(model)
            except ClientDisconnect as error:
                raise HTTPException(400, "the client disconnected") from error
            return await handle(own)

        return read_and_handle


class AnyBodyRoute(JsonBodyRoute):
    """A route whose `body` is JSON by whatever name, as `curl -d` sends it.

    Only for clients that do so: pages of other origins are refused by the guard alone.
    """

    any_type = True


def as_json(scope: Scope) -> Scope:
    """Return a request whose body is said to be JSON."""
    others = [one for one in scope["headers"] if one[0].lower() != CONTENT_TYPE]
    return {**scope, "headers": [*others, (CONTENT_TYPE, b"application/json")]}


def is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def parse_body(body: bytes, model: type[BaseModel], limits: RequestLimits) -> BaseModel:
    """Parse and validate a body. Raises FastAPI's errors, and ApiError (400, 413)."""
    try:
        values = count_values(body, limits.values)
        if values > limits.values:
            raise too_many_values(limits.values)
        decoder = YieldingDecoder if values > MANY_VALUES else json.JSONDecoder
        value = json.loads(body, cls=decoder, parse_int=parse_integer)
    except json.JSONDecodeError as error:
        raise RequestValidationError(
            [{"type": "json_invalid", "loc": (BODY, error.pos), "msg": error.msg}]
        ) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a huge number, too deep
        raise HTTPException(400, "the body cannot be read") from error
    check_lengths(value, limits)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        first = problems[0]
        place = (BODY, *first["loc"])
        raise RequestValidationError([{**first, "loc": place}]) from None


def count_values(body: bytes, limit: int) -> int:
    """Count the values of a JSON text: an upper bound if small, else exactly.

    Stops counting after `limit`.
    """
    count = sum(map(body.count, VALUE_MARKS))
    if count <= MANY_VALUES:
        return count
    count, at = 0, 0
    while count <= limit and at < len(body):
        text = body.find(QUOTE, at)
        end = len(body) if text < 0 else text
        count += sum(body.count(mark, at, end) for mark in VALUE_MARKS)
        at = end_of_string(body, end + 1)
    return count


def end_of_string(body: bytes, at: int) -> int:
    """Return the index after the string that contains `at`."""
    while at < len(body) and body[at : at + 1] != QUOTE:
        found = STRING_CHUNK.match(body, at)
        if found is None or found.end() == at:  # ends with a backslash
            return len(body)
        at = found.end()
    return at + 1


def parse_integer(digits: str) -> int:
    """`int` as a Python function, so that other threads can run in between."""
    return int(digits)


def check_lengths(value: Any, limits: RequestLimits) -> None:
    """Raise ApiError (400) for lists with too many entries to validate."""
    if not isinstance(value, dict):
        return
    most = {"messages": limits.messages, "input": limits.messages}
    for name, count in {**most, "tools": limits.tools}.items():
        if isinstance(value.get(name), list):
            check_count(name, len(value[name]), count)


def too_many_values(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body has more than {limit} values: shorten the conversation",
        "request_too_large",
    )
