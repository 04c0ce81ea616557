"""The server's routes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import Body, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HTTPRequest
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from .. import __version__
from ..errors import CharLSTMError
from ..generation import Stream
from ..run import Run
from .cards import card
from .completions import Answer, Asked, wake
from .config import ServeConfig
from .describing import description
from .engine import DrawingError, Engine, QueueFullError, Request
from .guards import Admission, Application, BodyLimit, Told
from .metrics import Metrics
from .protocol import Completion, CompletionRequest, Error, FieldError, error, token_names

STATIC = Path(__file__).with_name("static")
RETRY_SECONDS = "1"
READY_SECONDS = 2.0  # in which each model has to make a step
LONG_PROMPT = 20_000  # characters, beyond which they are made tokens beside the event loop
MOST_MAKING = 16  # requests that wait for that, or for their regular expression
_MEANINGS: dict[int | str, str] = {
    400: "What was asked for cannot be",
    401: "The key is missing or wrong",
    403: "Another site's page asks, or the Host header is not this server's name",
    404: "There is no such model",
    408: "The request did not come in time",
    413: "The request is too large",
    429: "Too many requests are under way; Retry-After says when to try again",
    "default": "Anything else that goes wrong",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": what} for status, what in _MEANINGS.items()
}


class Server:
    """The models of a server, the engines that draw with them while it runs, and its application."""

    def __init__(self, runs: Mapping[str, Run], config: ServeConfig) -> None:
        """`runs` by the names that clients know them by; the first one is taken where none is named."""
        self.runs, self.config = dict(runs), config
        self.engines: dict[str, Engine] = {}
        self.metrics = Metrics(self.engines)
        self.names = {name: token_names(run.tokenizer) for name, run in runs.items()}
        self.cards = [card(name, run) for name, run in runs.items()]
        self.started = int(time.time())
        self._maker, self._making = ThreadPoolExecutor(1, "charlstm-prompts"), 0
        app: Application = _routes(self)
        app = BodyLimit(app, config.max_body)
        app = Admission(app, config)
        if config.cors_origin:
            app = CORSMiddleware(
                app, config.cors_origin, allow_methods=["GET", "POST"], allow_headers=["*"],
                expose_headers=["retry-after"],
            )  # fmt: skip
        self.app: Application = Told(app, self.metrics)

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def tell(requests: Collection[Request]) -> None:
            loop.call_soon_threadsafe(wake, requests)

        slots, queue = self.config.slots, self.config.queue
        for name, run in self.runs.items():
            self.engines[name] = Engine(run.model, slots, queue, tell, self.metrics.observer(name))
        yield
        self._maker.shutdown(wait=False, cancel_futures=True)
        for engine in self.engines.values():
            await asyncio.to_thread(engine.close)

    def drain(self) -> None:
        """Let what is under way end within the limit."""
        for engine in self.engines.values():
            engine.drain(self.config.drain_seconds)

    def model(self, name: str | None) -> str:
        """The name of the model that is asked for; status 404 where there is none."""
        if name is None:
            return next(iter(self.runs))
        if name not in self.runs:
            raise HTTPException(
                404, f"there is no model {name[:100]!r}: GET /v1/models lists those there are"
            )
        return name

    async def answer(self, asked: CompletionRequest) -> Answer:
        """Check a request, and have it answered."""
        name = self.model(asked.model)
        tokenizer = self.runs[name].tokenizer

        def made() -> list[Stream]:
            return asked.streams(tokenizer, self.config)

        slow = asked.regex is not None or sum(map(len, asked.prompts)) > LONG_PROMPT
        streams = await self._beside(made) if slow else made()
        request = Asked(streams, bool(asked.stream), time.monotonic() + self.config.deadline_seconds)
        return Answer(asked, request, self.engines[name], name, self.names[name])

    async def _beside(self, made: Callable[[], list[Stream]]) -> list[Stream]:
        """What takes long, beside the event loop, one at a time."""
        if self._making >= MOST_MAKING:
            raise QueueFullError
        self._making += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._maker, made)
        finally:
            self._making -= 1

    def described(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self.started, "owned_by": "charlstm"}


def _routes(server: Server) -> FastAPI:
    app = FastAPI(
        title="charlstm",
        version=__version__,
        description="Text from CIFG-LSTM language models, in OpenAI's format of completions.",
        lifespan=server.running,
        docs_url=None,
        redoc_url=None,
    )
    _add_api(app, server)
    _add_operations(app, server)
    _add_page(app, server)
    _add_errors(app)
    return app


def _add_api(app: FastAPI, server: Server) -> None:
    @app.post(
        "/v1/completions",
        tags=["OpenAI"],
        response_model=None,
        responses={
            200: {
                "model": Completion,
                "description": "The texts; with stream, pieces of them as server-sent events",
            },
            **_ERRORS,
        },
    )
    async def completions(asked: Annotated[CompletionRequest, Body()]) -> Response:
        """Go on from a prompt."""
        return await server.answer(asked)

    @app.get("/v1/models", tags=["OpenAI"], responses={401: _ERRORS[401]})
    async def models() -> dict[str, Any]:
        """The models that there are."""
        return {"object": "list", "data": [server.described(name) for name in server.runs]}

    @app.get("/v1/models/{model}", tags=["OpenAI"], responses={k: _ERRORS[k] for k in (401, 404, "default")})
    async def model(model: str) -> dict[str, Any]:
        """One of them."""
        return server.described(server.model(model))


def _add_operations(app: FastAPI, server: Server) -> None:
    @app.get("/health", tags=["operation"])
    async def health() -> dict[str, str]:
        """The server runs. Needs no key."""
        return {"status": "ok"}

    @app.get("/ready", tags=["operation"], responses={503: {"description": "A model does not"}})
    async def ready() -> JSONResponse:
        """Each model makes a step in time."""
        steps = (asyncio.to_thread(engine.probe, READY_SECONDS) for engine in server.engines.values())
        made = dict(zip(server.engines, await asyncio.gather(*steps), strict=True))
        good = bool(made) and all(made.values())
        return JSONResponse(
            {"status": "ready" if good else "not ready", "models": made}, 200 if good else 503
        )

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(server.metrics.told(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_page(app: FastAPI, server: Server) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/page/models", tags=["page"])
    async def cards() -> dict[str, Any]:
        """What the page tells of each model: its shape, what it was trained on, its losses and curves."""
        return {"models": server.cards, "limits": {
            "max_tokens": server.config.max_length, "prompt_tokens": server.config.max_prompt,
            "texts": server.config.max_texts,
        }}  # fmt: skip

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        # the page's own policy names its style sheet; this one adds what a page cannot say of itself
        return HTMLResponse(
            description(app.openapi()), headers={"content-security-policy": "frame-ancestors 'none'"}
        )

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def not_valid(request: HTTPRequest, failure: RequestValidationError) -> JSONResponse:
        found = failure.errors()
        # of a field that may be of several types, what is wrong with the one that was given
        first = next((one for one in found if not one["type"].endswith("_type")), found[0])
        place = first["loc"][1:2]  # a number where the body is no JSON
        field = _ascii(place[0]) if place and isinstance(place[0], str) else None
        message = f"{field or 'the body of the request'}: {_ascii(first['msg'])}"
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", ""):
            message = "the body of the request has to be JSON, with the header Content-Type: application/json"
        return JSONResponse(error(message, parameter=field), 400)

    @app.exception_handler(QueueFullError)
    async def busy(request: HTTPRequest, failure: QueueFullError) -> JSONResponse:
        told = error(str(failure), "rate_limit_error", code="rate_limit_exceeded")
        return JSONResponse(told, 429, headers={"retry-after": RETRY_SECONDS})

    @app.exception_handler(DrawingError)
    async def not_drawn(request: HTTPRequest, failure: DrawingError) -> JSONResponse:
        return JSONResponse(error(str(failure), "server_error"), 500)

    @app.exception_handler(CharLSTMError)
    async def not_possible(request: HTTPRequest, failure: CharLSTMError) -> JSONResponse:
        # what the command line calls --on-unknown is the field on_unknown here
        message = re.sub("--([a-z-]+)", lambda option: option[1].replace("-", "_"), str(failure))
        field = failure.field if isinstance(failure, FieldError) else None
        return JSONResponse(error(_ascii(message), parameter=field), 400)

    @app.exception_handler(HTTPException)
    async def refused(request: HTTPRequest, failure: HTTPException) -> JSONResponse:
        message, code = str(failure.detail), None
        if failure.status_code == 404 and request.scope.get("route") is None:
            message, code = f"there is no {request.url.path}: /docs lists what there is", "not_found"
        elif failure.status_code == 404 and request.url.path.startswith("/v1/"):
            code = "model_not_found"
        told = error(_ascii(message), code=code)
        return JSONResponse(told, failure.status_code, headers=failure.headers)

    @app.exception_handler(Exception)
    async def failed(request: HTTPRequest, failure: Exception) -> JSONResponse:
        return JSONResponse(error("the server failed: its log tells why", "server_error"), 500)


def _ascii(text: str) -> str:
    """A message that any client can be told: what came from the client may hold surrogates."""
    return text.encode("utf-8", "backslashreplace").decode()
