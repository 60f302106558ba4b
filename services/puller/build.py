"""Build the puller's objects from its settings. Below this file, values replace settings."""

from __future__ import annotations

import redis
from huggingface_hub import HfApi

from services.puller.download.file_fetcher import FileFetcher
from services.puller.download.retry import RetryPolicy
from services.puller.download.throttle import Hours, Throttle
from services.puller.job_runner import JobRunner
from services.puller.pull_model import Puller
from services.puller.search.search import ModelSearch
from services.puller.search.update_check import UpdateCheck
from services.puller.settings import PullerSettings, split_list
from services.puller.sources.base import ModelSource
from services.puller.sources.huggingface import HuggingFaceSource
from services.puller.sources.ollama import OllamaSource
from services.puller.sources.registry_auth import OllamaKey
from services.puller.sources.url import UrlSource
from services.puller.webhook import Webhook, WebhookSender
from services.shared.mlx_support import prefers_mlx
from services.shared.model_name import HUB_HOST, OLLAMA_HOST, Source, canonical_host
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore
from services.shared.store.model_store import ModelStore


def build_job_runner(settings: PullerSettings, client: redis.Redis) -> JobRunner:
    """Build the job runner of a worker. Raises InvalidSettings when a named file is not usable."""
    store = ModelStore(settings.models_dir)
    retry_policy = RetryPolicy(timeout_seconds=settings.pull_timeout_seconds)
    fetcher = FileFetcher(
        layout=store.layout,
        blobs=store.blobs,
        connections=settings.pull_connections,
        retry_policy=retry_policy,
        throttle=build_throttle(settings, client),
        reserve_bytes=settings.pull_reserve_bytes,
    )
    puller = Puller(
        store,
        build_sources(settings),
        fetcher,
        retry_policy=retry_policy,
        reserve_bytes=settings.pull_reserve_bytes,
        allowed_hosts=parse_allowed_hosts(settings),
    )
    return JobRunner(JobStore(client), JobQueue(client), store, puller)


def build_webhook_sender(settings: PullerSettings, client: redis.Redis) -> WebhookSender | None:
    """Build the sender of the ends of jobs; None without an address."""
    if not settings.pull_webhook_url:
        return None
    return WebhookSender(JobStore(client), Webhook(settings.pull_webhook_url))


def build_sources(settings: PullerSettings) -> dict[Source, ModelSource]:
    """Build one source for each kind of name."""
    plain_http_hosts = frozenset(host.lower() for host in split_list(settings.plain_http_hosts))
    key_file = settings.ollama_key_file
    return {
        Source.OLLAMA: OllamaSource(
            settings.ollama_registry,
            plain_http_hosts=plain_http_hosts,
            signer=OllamaKey(key_file) if key_file else None,
        ),
        Source.HUB: HuggingFaceSource(
            settings.hf_endpoint, token=settings.hub_token, prefers_mlx=prefers_mlx()
        ),
        Source.URL: UrlSource(plain_http_hosts=plain_http_hosts),
    }


def parse_allowed_hosts(settings: PullerSettings) -> frozenset[str]:
    """The hosts that models may come from, as model names contain them; empty: all."""
    return frozenset(canonical_host(host) for host in split_list(settings.allowed_sources))


def build_search(settings: PullerSettings) -> ModelSearch:
    """Build the search of the sources that the settings allow."""
    allowed = parse_allowed_hosts(settings)
    # False, not None: None would use a token that is stored on this machine.
    hub = HfApi(
        endpoint=settings.hf_endpoint.rstrip("/"),
        token=settings.hub_token or False,
        library_name="spindll",
    )
    return ModelSearch(
        hub if not allowed or HUB_HOST in allowed else None,
        build_sources(settings)[Source.OLLAMA] if not allowed or OLLAMA_HOST in allowed else None,
        prefers_mlx=prefers_mlx(),
    )


def build_update_check(settings: PullerSettings) -> UpdateCheck:
    """Build the check for newer versions of the stored models."""
    return UpdateCheck(
        ModelStore(settings.models_dir),
        build_sources(settings),
        allowed_hosts=parse_allowed_hosts(settings),
    )


def build_throttle(settings: PullerSettings, client: redis.Redis) -> Throttle:
    """Build the shared bandwidth limit with the allowed hours."""
    return Throttle(
        client,
        bytes_per_second=settings.pull_max_bytes_per_second,
        hours=Hours.parse(settings.pull_hours) if settings.pull_hours else None,
    )
