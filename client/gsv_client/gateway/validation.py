"""What pydantic found in a request, in one sentence and as FastAPI's clients know it."""

from __future__ import annotations

from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

from gsv_client.gateway.problems import Problem, json_response


def told(error: Exception) -> Problem:
    """Any error that a door may meet, for its caller."""
    if not isinstance(error, RequestValidationError):
        return Problem.of(error)
    found = _plain(error)
    first = found[0]
    # A number alone is a place in the text of the JSON, not a field.
    field = None
    if first["type"] != "json_invalid":
        field = ".".join(str(part) for part in first["loc"][1:]) or None
    message = f"{field}: {first['msg']}" if field else first["msg"]
    if len(found) > 1:
        message += f" (and {len(found) - 1} more)"
    return Problem(400, message, param=field)


def unprocessable(error: RequestValidationError) -> Response:
    """As FastAPI tells it: status 422 and a list of what is wrong."""
    return json_response({"detail": _plain(error)}, 422)


def _plain(error: RequestValidationError) -> list[dict[str, Any]]:
    """What is wrong, without the caller's own values: they may be huge, or no JSON."""
    return [
        {
            "type": one["type"],
            "loc": [str(part)[:100] if isinstance(part, str) else part for part in one["loc"]],
            "msg": str(one["msg"])[:300],
        }
        for one in error.errors()
    ]
