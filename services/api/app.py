"""Builds the application of one worker from its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import redis.asyncio
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from services import __version__
from services.api import errors, health
from services.api.access.client_address import ClientAddresses
from services.api.access.key_files import KeyFiles, create_key_files
from services.api.access.key_manager import KeyManager
from services.api.access.keys import KeyStore
from services.api.access.principal import Authenticator
from services.api.admin import cache, cache_report, keys, pulls, search, status, updates
from services.api.admin import models as admin_models
from services.api.cache_reports.recorder import CacheReports
from services.api.cache_reports.report_store import ReportStore
from services.api.clients.engine import EngineClient
from services.api.clients.pulls import PullClient
from services.api.dependencies import ApiParts
from services.api.dialects.grpc.server import start_grpc_server
from services.api.dialects.openai import (
    chat,
    completions,
    embeddings,
    models,
    prefixes,
    rerank,
    tokens,
)
from services.api.generation.embeddings import EmbeddingService
from services.api.generation.service import GenerationService
from services.api.middleware.access_log import AccessLogMiddleware
from services.api.middleware.authentication import AuthenticationMiddleware
from services.api.middleware.body_limit import BodyLimitMiddleware
from services.api.models.catalog import Catalog
from services.api.models.pull_on_demand import PullOnDemand
from services.api.openapi import describe_api
from services.api.parse_budget import ParseBudget
from services.api.process.shutdown import Shutdown
from services.api.prompts.render import PromptRenderer
from services.api.settings import ApiSettings
from services.shared.malloc_trim import start_trimming
from services.shared.redis import redis_client
from services.shared.store.model_store import ModelStore

# `models` has paths that match all below /v1/models/, so what is more exact comes before it.
_ROUTES = (
    *(chat, completions, embeddings, rerank, tokens, keys, pulls, admin_models, updates, models),
    *(search, cache, cache_report, prefixes, status, health),
)
_CORS_HEADERS = (
    "authorization",
    "content-type",
    "idempotency-key",
    "x-api-key",
    "x-request-id",
    "x-spindll-cache-key",
    # The official JavaScript client of OpenAI sends these.
    "openai-beta",
    "openai-organization",
    "openai-project",
    *(
        f"x-stainless-{name}"
        for name in (
            *("arch", "async", "custom-poll-interval", "helper-method", "lang", "os"),
            *("package-version", "poll-helper", "retry-count", "runtime", "runtime-version"),
            *("stream-helper", "timeout"),
        )
    ),
)


def create_app(settings: ApiSettings, *, engine: EngineClient | None = None) -> FastAPI:
    """The application. It opens no connection before its lifespan begins."""
    connection = redis_client.connect_async(settings.redis_url, settings.redis_password_file)
    blocking = redis_client.connect(settings.redis_url, settings.redis_password_file)
    store = ModelStore(settings.models_dir)
    pull_client = PullClient(blocking, store)
    key_files = KeyFiles(settings.secrets_dir)
    key_store = KeyStore(connection, cache_seconds=settings.key_cache_seconds)
    engine = engine or EngineClient(
        settings.engine_address, load_timeout_seconds=settings.load_timeout_seconds
    )
    catalog = Catalog(store, pull_client, engine.calls)
    prompts = PromptRenderer()
    cache_reports = CacheReports(ReportStore(connection))
    pull_on_demand = PullOnDemand(catalog, pull_client, settings.pull_on_demand)
    parts = ApiParts(
        settings=settings,
        engine=engine,
        catalog=catalog,
        pulls=pull_client,
        prompts=prompts,
        generations=GenerationService(
            pull_on_demand,
            prompts,
            engine,
            timeout_seconds=settings.request_timeout_seconds,
            shares_tenant=settings.shared_tenant,
            canonicalises=settings.canonical_prompts,
            reports=cache_reports,
        ),
        embeddings=EmbeddingService(
            pull_on_demand, engine.calls, timeout_seconds=settings.request_timeout_seconds
        ),
        parse_budget=ParseBudget(),
        keys=KeyManager(connection, key_files),
        cache_reports=cache_reports,
    )
    authenticator = Authenticator(key_files, key_store)
    app = FastAPI(
        title="Spindll",
        version=__version__,
        docs_url=None,  # its page would load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        middleware=_build_middleware(settings, authenticator),
        lifespan=_build_lifespan(parts, key_files, connection, authenticator),
    )
    app.state.parts, app.state.redis, app.state.settings = parts, connection, settings
    app.state.readiness = health.Readiness(connection, parts.engine, catalog)
    app.state.shutdown = Shutdown(
        parts.engine, pull_client, prompts, drain_seconds=settings.drain_seconds
    )
    errors.install_error_handlers(app)
    routers = [module.router for module in _ROUTES]
    for router in routers:
        app.include_router(router)
    describe_api(app, routers)
    return app


def _build_middleware(settings: ApiSettings, authenticator: Authenticator) -> list[Middleware]:
    """The middleware, outermost first. CORS comes before authentication: a preflight has no key."""
    addresses = ClientAddresses(settings.forwarded_allow_ips)
    layers = [Middleware(AccessLogMiddleware, addresses=addresses)]
    if settings.cors_origins:
        layers.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=_CORS_HEADERS,
                expose_headers=["retry-after", "x-request-id", "x-should-retry"],
            )
        )
    layers.append(Middleware(AuthenticationMiddleware, authenticator=authenticator))
    return [*layers, Middleware(BodyLimitMiddleware, max_bytes=settings.max_body_bytes)]


def _build_lifespan(
    parts: ApiParts,
    key_files: KeyFiles,
    connection: redis.asyncio.Redis,
    authenticator: Authenticator,
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await asyncio.to_thread(create_key_files, parts.settings.secrets_dir)
        key_files.refresh()
        await parts.engine.start()
        app.state.shutdown.set_grpc_server(await start_grpc_server(parts, authenticator))
        trimming = start_trimming()
        try:
            yield
        finally:
            trimming.set()
            await app.state.shutdown.finish()
            await parts.cache_reports.close()
            await connection.aclose()

    return lifespan
