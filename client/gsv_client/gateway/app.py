"""The application: doors behind the guard, the page, health."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from gsv_client import __version__
from gsv_client.async_client import AsyncClient
from gsv_client.errors import GsvClientError
from gsv_client.gateway import api_v2_door, text_door
from gsv_client.gateway.guard import Guard
from gsv_client.gateway.metrics import MEDIA_TYPE, Metrics
from gsv_client.gateway.openai_door import openai_router
from gsv_client.gateway.own_door import own_router
from gsv_client.gateway.problems import Problem, json_response
from gsv_client.gateway.record import record_of
from gsv_client.gateway.settings import Settings
from gsv_client.gateway.speaking import Speaker
from gsv_client.gateway.validation import told, unprocessable
from gsv_client.gateway.voice_names import VoiceNames

PAGE = Path(__file__).parent / "page"
# Nothing from elsewhere, no script but the page's own files; audio that the page made itself.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; media-src 'self' blob:; worker-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_API_V2 = ("/tts", "/set_gpt_weights", "/set_sovits_weights", "/set_refer_audio", "/control")
_NO_PAGE, _NO_METHOD = 404, 405
_WHERE = "what there is: GET /openapi.json, or docs/gateway.md"
_LEFT = 499  # nginx's number for a caller who left before the request was complete


def create_app(client: AsyncClient, settings: Settings, metrics: Metrics | None = None) -> ASGIApp:
    """The gateway as an ASGI application.

    Args:
        client: the way to Triton; closed when the application ends.
        settings: limits and switches.
        metrics: where requests are counted, if others count there too.
    """
    counted = metrics or Metrics()
    speaker = Speaker(client)
    names = VoiceNames(settings, speaker)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(
        title="GPT-SoVITS v4 gateway", version=__version__, lifespan=lifespan,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", redirect_slashes=False,
    )  # fmt: skip
    app.include_router(openai_router(settings, speaker, names))
    app.include_router(api_v2_door.api_v2_router(settings, speaker, names))
    app.include_router(own_router(settings, speaker, names))
    app.include_router(text_door.text_router(settings, speaker, names))
    _add_health(app, speaker, counted)
    _add_errors(app)
    # Not mounted: a mount takes every method of every path, so that a wrong method of a door would
    # be told as a page that is not there.
    app.router.default = _Page(directory=str(PAGE), html=True)
    routes = {*app.openapi()["paths"], text_door.PATH}

    def route_of(path: str) -> str:
        return path if path in routes else "page or unknown"

    guarded: ASGIApp = Guard(app, settings, counted, _needs_key, _is_counted, route_of, _shape_of)
    if settings.cors:
        guarded = CORSMiddleware(
            guarded, allow_origins=list(settings.cors), allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["X-Request-Id", "Server-Timing", "Retry-After"],
        )  # fmt: skip
    return guarded


def _add_health(app: FastAPI, speaker: Speaker, metrics: Metrics) -> None:
    @app.get("/health", tags=["health"])
    async def health() -> Response:
        """This process answers."""
        return json_response({"status": "ok", "version": __version__})

    @app.get("/ready", tags=["health"])
    async def ready(request: Request) -> Response:
        """Triton takes requests, too."""
        why = await speaker.why_not_ready()
        if why:
            record_of(request.scope).problem = why
            return json_response({"status": "not ready"}, 503, {"Retry-After": "2"})
        return json_response({"status": "ready"})

    @app.get("/metrics", tags=["health"])
    async def tell_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type=MEDIA_TYPE)


def _add_errors(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        problem = told(error)
        record_of(request.scope).problem = problem.in_full
        return _shape_of(request.url.path)(problem)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        record_of(request.scope).problem = told(error).message
        if request.url.path in _API_V2:
            return unprocessable(error)
        return told(error).response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path, headers = request.url.path, dict(error.headers or {})
        message = str(error.detail)
        if error.status_code == _NO_PAGE:
            message = f"{request.method} {path[:200]}: nothing is there; {_WHERE}"
        elif error.status_code == _NO_METHOD:
            message = f"{request.method} is not what {path[:200]} takes; {_WHERE}"
        record_of(request.scope).problem = message
        if error.status_code == _NO_METHOD and path in _API_V2:
            # As GPT-SoVITS, whose framework answers this before its API does.
            return json_response({"detail": error.detail}, _NO_METHOD, headers)
        response = _shape_of(path)(Problem(error.status_code, message))
        response.headers.update(headers)
        return response

    async def failed(request: Request, error: Exception) -> Response:
        record_of(request.scope).problem = f"{type(error).__name__}: {error}"
        message = "the gateway failed; its operator finds more under this request id"
        response = _shape_of(request.url.path)(Problem(500, message, "server_error", "failed"))
        response.headers["Connection"] = "close"  # as uvicorn does, which sees the error too
        return response

    async def left(request: Request, error: Exception) -> Response:
        record_of(request.scope).left = True
        return Response(status_code=_LEFT)  # for the books: nobody is there to read it

    app.add_exception_handler(ClientDisconnect, left)
    app.add_exception_handler(GsvClientError, known)
    app.add_exception_handler(Problem, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)  # told, raised again, and logged by uvicorn


class _Page(StaticFiles):
    """The page's files, with headers that keep everything else out."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
            return
        await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            # As Starlette does, which leaves out the header up to 1.7.
            raise HTTPException(_NO_METHOD, headers={"Allow": "GET, HEAD"})
        return await super().get_response(path, scope)

    def file_response(self, *args: Any, **values: Any) -> Response:
        response = super().file_response(*args, **values)
        response.headers.update(PAGE_HEADERS)
        return response


def _needs_key(path: str) -> bool:
    """Everything but the page's files and the questions whether this server is well."""
    return _is_counted(path) or path in ("/metrics", "/openapi.json")


def _is_counted(path: str) -> bool:
    """What asks for work: an operator looks at the metrics most of all when there is too much."""
    return path.startswith("/v1/") or path in _API_V2


def _shape_of(path: str) -> Callable[[Problem], Response]:
    return api_v2_door.shaped if path in _API_V2 else Problem.response
