"""Errors for a client whose body cannot be parsed or is no valid request.

error = body_error(raised)        # by `parse_body`
"""

import sys

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mlx_gptoss.api.errors import ApiError, as_api_error, validation_error


def body_error(error: BaseException) -> ApiError:
    """Return the error for the client of what `parse_body` or anything else raised."""
    if isinstance(error, RequestValidationError):
        return validation_error(error.errors())
    if isinstance(error, HTTPException) and error.status_code == 400:
        return ApiError(400, unreadable_body(), "invalid_body")
    return as_api_error(error)


def unreadable_body() -> str:
    digits = sys.get_int_max_str_digits()
    return (
        "the body cannot be read: send JSON in UTF-8, with numbers of at most "
        f"{digits:,} digits"
    )
