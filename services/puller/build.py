"""Put the puller together from its settings. Below this file values are passed, not settings."""

from __future__ import annotations

import platform
import sys

import redis
from huggingface_hub import HfApi

from services.puller.download.file_fetcher import Fetcher
from services.puller.download.retry import Limits
from services.puller.download.throttle import Hours, Pace
from services.puller.job_runner import Runner
from services.puller.pull import Puller
from services.puller.search.search import Search
from services.puller.settings import PullerSettings, listed
from services.puller.sources.base import Source as ModelSource
from services.puller.sources.huggingface import HuggingFaceSource
from services.puller.sources.ollama import OllamaSource
from services.puller.sources.registry_auth import OllamaKey
from services.puller.sources.url import UrlSource
from services.puller.webhook import Webhook
from services.shared.model_name import HUB_HOST, OLLAMA_HOST, Source
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore


def build_runner(settings: PullerSettings, client: redis.Redis) -> Runner:
    """A worker process's runner. InvalidSettings when a named file is not usable."""
    store = ModelStore(settings.models_dir)
    limits = Limits(
        connections=settings.pull_connections, timeout_seconds=settings.pull_timeout_seconds
    )
    fetcher = Fetcher(
        blobs=store.blobs,
        limits=limits,
        pace=build_pace(settings, client),
        reserve_bytes=settings.pull_reserve_bytes,
    )
    puller = Puller(
        store,
        build_sources(settings),
        fetcher,
        limits=limits,
        reserve_bytes=settings.pull_reserve_bytes,
        allowed_hosts=frozenset(host.lower() for host in listed(settings.allowed_sources)),
    )
    webhook = Webhook(settings.pull_webhook_url) if settings.pull_webhook_url else None
    return Runner(JobStore(client), JobQueue(client), puller, webhook)


def build_sources(settings: PullerSettings) -> dict[Source, ModelSource]:
    """One source for each kind of name."""
    plain = frozenset(host.lower() for host in listed(settings.plain_http_hosts))
    key = settings.ollama_key_file
    return {
        Source.OLLAMA: OllamaSource(
            settings.ollama_registry,
            plain_http_hosts=plain,
            signer=OllamaKey(key) if key else None,
        ),
        Source.HUB: HuggingFaceSource(
            settings.hf_endpoint, token=settings.token, prefers_mlx=on_apple_silicon()
        ),
        Source.URL: UrlSource(plain_http_hosts=plain),
    }


def build_search(settings: PullerSettings) -> Search:
    """What pulls may come from, searched."""
    allowed = frozenset(host.lower() for host in listed(settings.allowed_sources))
    # False, not None: never pick up a token somebody left on the machine.
    hub = HfApi(
        endpoint=settings.hf_endpoint.rstrip("/"),
        token=settings.token or False,
        library_name="spindll",
    )
    return Search(
        hub if not allowed or HUB_HOST in allowed else None,
        build_sources(settings)[Source.OLLAMA] if not allowed or OLLAMA_HOST in allowed else None,
        prefers_mlx=on_apple_silicon(),
    )


def build_pace(settings: PullerSettings, client: redis.Redis) -> Pace:
    """The shared bandwidth limit and the hours."""
    return Pace(
        client,
        bytes_per_second=settings.pull_max_bytes_per_second,
        hours=Hours.parse(settings.pull_hours) if settings.pull_hours else None,
    )


def on_apple_silicon() -> bool:
    """Where MLX is the faster engine."""
    return sys.platform == "darwin" and platform.machine() == "arm64"
