"""Which environment variables each service of a stack gets.

A setting may be a secret (a token, an address with a signature), so a service gets its own settings
only. The settings classes belong to the services, which the command line does not import; a test
compares this table with them.
"""

from __future__ import annotations

_PREFIX = "SPINDLL_"
_OF_ALL = "DATA_DIR REDIS_URL REDIS_PASSWORD_FILE ENGINE_ADDRESS LOG_LEVEL LOG_FORMAT"
_OF_API = (
    "API_HOST API_PORT GRPC_PORT API_WORKERS MAX_BODY_BYTES SSE_KEEPALIVE_SECONDS KEY_CACHE_SECONDS"
    " REQUEST_TIMEOUT_SECONDS RECEIVE_TIMEOUT_SECONDS CLIENT_TIMEOUT_SECONDS SHARED_TENANT"
    " CANONICAL_PROMPTS LOAD_TIMEOUT_SECONDS DRAIN_SECONDS PULL_ON_DEMAND CORS_ORIGINS"
    " FORWARDED_ALLOW_IPS"
)
_OF_ENGINE = (
    "MEMORY_BUDGET CONTEXT_LENGTH MAX_SEQUENCES BATCH_TOKENS THREADS GPU_LAYERS REQUIRE_GPU"
    " CACHE_TYPE_K CACHE_TYPE_V KV_MODE FLASH_ATTENTION TARGET_STEP_MS SPECULATE MAX_QUEUED"
    " CACHE_DISK CACHE_RAM CACHE_RAM_FOLDER CACHE_WRITE CACHE_TENANT_SHARE CACHE_PINNED_SHARE"
    " CACHE_MIN_FREE KEEP_ALIVE_SECONDS PRELOAD DRAIN_SECONDS ENGINE_BACKEND"
    " LOAD_STALL_SECONDS STEP_DEADLINE_SECONDS BEAT_DEADLINE_SECONDS"
)
_OF_PULLER = (
    "OLLAMA_REGISTRY OLLAMA_KEY_FILE HF_ENDPOINT HF_TOKEN HF_TOKEN_FILE PLAIN_HTTP_HOSTS"
    " ALLOWED_SOURCES PULL_WORKERS PULL_CONNECTIONS PULL_ATTEMPTS PULL_TIMEOUT_SECONDS"
    " PULL_MAX_BYTES_PER_SECOND PULL_HOURS PULL_RESERVE_BYTES PULL_WEBHOOK_URL MODELS"
    " HEARTBEAT_FILE TINY_MODEL"
)
SETTINGS = {
    service: frozenset(_PREFIX + name for name in f"{_OF_ALL} {own}".split())
    for service, own in {"api": _OF_API, "engine": _OF_ENGINE, "puller": _OF_PULLER}.items()
}

# Of other programs, for a service that connects to other computers: the address of a proxy often
# has a password.
_OF_DOWNLOADS = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY", "GRPC_PROXY"}
    | {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}
)


def is_for_service(variable: str, service: str) -> bool:
    """Whether a service gets a variable of the user: its settings, and what is no setting at all."""
    if variable.startswith(_PREFIX):
        return variable in SETTINGS.get(service, ())
    return service == "puller" or variable.upper() not in _OF_DOWNLOADS
