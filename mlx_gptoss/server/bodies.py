"""Bodies of requests, read where they keep nobody waiting.

    router = APIRouter(route_class=JsonBodyRoute)

A short one is read in the event loop, as the framework has it; a longer one in a
thread, and with many values so that other threads go on meanwhile. What is more than a
server takes is refused before it is checked in detail. Knows JSON and the framework.
"""

import json
import json.scanner
import re
from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.limits import check_count
from mlx_gptoss.api.settings import RequestLimits

SHORT_BODY = 2**15  # bytes: some thousandths of a second
MANY_VALUES = 2**14  # values
BODY = "body"  # what routes call it
VALUE_MARKS = (b",", b"[", b"{")  # each goes before a value
QUOTE = b'"'
STRING_CHUNK = re.compile(rb'(?:[^"\\]++|\\.){0,4096}+', re.DOTALL)  # no more at a time
UNSET: Any = object()


class YieldingDecoder(json.JSONDecoder):
    """Reads JSON as `json` does, slower, but lets other threads go on meanwhile."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.scan_once = json.scanner.py_make_scanner(self)  # pyright: ignore[reportAttributeAccessIssue]


class BodyRequest(Request):
    """A request whose body is read once, and not kept beside what it says."""

    value: Any = UNSET

    async def read(self, model: type[BaseModel]) -> None:
        """Read the body if it is long. Raises what is wrong with it."""
        body = await super().body()
        self.state.body_bytes = len(body)
        if len(body) <= SHORT_BODY or not is_json(self.headers.get("content-type", "")):
            return
        service = self.app.state.service
        limits = service.settings.limits
        self.value = await service.pools.run(len(body), parse_body, body, model, limits)
        self._body = b"{}"  # give the bytes back

    async def json(self) -> Any:
        return await super().json() if self.value is UNSET else self.value


class JsonBodyRoute(APIRoute):
    """A route whose `body` is read by `BodyRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        model = get_type_hints(self.endpoint).get(BODY)
        if model is None:
            return handle

        async def read_and_handle(request: Request) -> Response:
            own = BodyRequest(request.scope, request.receive)
            try:
                await own.read(model)
            except ClientDisconnect as error:
                raise HTTPException(400, "the client left") from error
            return await handle(own)

        return read_and_handle


def is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def parse_body(body: bytes, model: type[BaseModel], limits: RequestLimits) -> BaseModel:
    """Return what a body says; raises the framework's errors, and ApiError."""
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
    except (ValueError, RecursionError) as error:  # no UTF-8, a huge number, depth
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
    """Count the values of a JSON text at least, and exactly once they are many.

    It stops behind `most`.
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
    """Where it goes on behind a text that begins before `at`."""
    while at < len(body) and body[at : at + 1] != QUOTE:
        found = STRING_CHUNK.match(body, at)
        if found is None or found.end() == at:  # a backslash is the last byte
            return len(body)
        at = found.end()
    return at + 1


def parse_integer(digits: str) -> int:
    """`int`, but of Python: other threads go on between many of them."""
    return int(digits)


def check_lengths(value: Any, limits: RequestLimits) -> None:
    """Raise ApiError (400) for lists that are too long to look at each entry."""
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
