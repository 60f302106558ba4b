"""One worker's application: made whole here, once, out of its parts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import redis.asyncio
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from services import __version__
from services.api import errors, health
from services.api.access.keys import KeyCache, KeyStore
from services.api.admin import pulls, search, status
from services.api.clients.engine import EngineClient
from services.api.clients.pulls import PullQueue
from services.api.dependencies import ApiParts
from services.api.dialects.grpc.server import start_grpc_server
from services.api.dialects.openai import chat, completions, models
from services.api.middleware.access_log import AccessLogMiddleware
from services.api.middleware.authentication import Authenticator, AuthMiddleware
from services.api.middleware.body_limit import BodyLimitMiddleware
from services.api.models.catalog import Catalog
from services.api.models.pull_on_demand import OnDemand
from services.api.settings import ApiSettings
from services.shared import redis_client
from services.shared.malloc_trim import start_trimming
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore


def create_app(settings: ApiSettings, *, engine: EngineClient | None = None) -> FastAPI:
    """The application. Connects to nothing before its lifespan begins."""
    connection = redis_client.connect_async(settings.redis_url, settings.redis_password_file)
    blocking = redis_client.connect(settings.redis_url, settings.redis_password_file)
    catalog = Catalog(ModelStore(settings.models_dir), JobStore(blocking))
    queue = PullQueue(blocking)
    keys = KeyStore(connection, settings.secrets_dir)
    parts = ApiParts(
        settings=settings,
        engine=engine
        or EngineClient(
            settings.engine_address, load_timeout_seconds=settings.load_timeout_seconds
        ),
        catalog=catalog,
        pulls=queue,
        on_demand=OnDemand(catalog, queue, settings.pull_on_demand),
    )
    authenticator = Authenticator(keys, KeyCache(seconds=settings.key_cache_seconds))
    app = FastAPI(
        title="Spindll",
        version=__version__,
        docs_url=None,  # its page loads scripts from strangers
        redoc_url=None,
        redirect_slashes=False,
        middleware=_middleware(settings, authenticator),
        lifespan=_lifespan(parts, keys, connection, authenticator),
    )
    app.state.parts, app.state.redis, app.state.settings = parts, connection, settings
    errors.install(app)
    for routes in (chat, completions, pulls, models, search, status, health):
        app.include_router(routes.router)
    return app


def _middleware(settings: ApiSettings, authenticator: Authenticator) -> list[Middleware]:
    """Outermost first. CORS before keys: a browser's preflight has none."""
    layers = [Middleware(AccessLogMiddleware)]
    if settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "x-api-key", "x-request-id"],
                expose_headers=["retry-after", "x-request-id"],
            )
        )
    layers.append(Middleware(AuthMiddleware, authenticator=authenticator))
    return [*layers, Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)]


def _lifespan(
    parts: ApiParts, keys: KeyStore, connection: redis.asyncio.Redis, authenticator: Authenticator
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await keys.open()
        await parts.engine.start()
        server = await start_grpc_server(parts, authenticator)
        trimming = start_trimming()
        try:
            yield
        finally:
            trimming.set()
            if server is not None:
                await server.stop(parts.settings.drain_seconds)
            await parts.engine.close()
            await connection.aclose()

    return lifespan
