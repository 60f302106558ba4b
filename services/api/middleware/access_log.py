"""The outermost middleware: request id, log line, security headers, and unexpected errors.

The log line has the method, the route (not the path, which may contain private names), the status,
the seconds, the client's address and the principal. Bodies, queries and headers are not logged.
"""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.access.client_address import ClientAddresses
from services.api.errors import build_error_response
from services.shared.errors import InternalError
from services.shared.logs import request_id

logger = logging.getLogger(__name__)

CLIENT_DISCONNECTED = 499  # nginx's status for it; logged, not sent

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DEBUG_PATHS = frozenset({"/health", "/ready"})


class AccessLogMiddleware:
    """Wraps the whole application. Stores the client's address as `request.state.client`."""

    def __init__(self, app: ASGIApp, addresses: ClientAddresses) -> None:
        self._app = app
        self._addresses = addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on and log it when it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._addresses)
        request_id.set(exchange.id)
        try:
            await self._app(scope, receive, exchange.send)
        except ClientDisconnect:
            logger.debug("the client left before its request was complete")
        except Exception:  # a worker survives every request
            logger.exception("unexpected error")
            if exchange.status is None:
                await build_error_response(InternalError("internal error"))(
                    scope, receive, exchange.send
                )
        finally:
            exchange.log()


class _Exchange:
    """The facts about one request and its response that are logged."""

    def __init__(self, scope: Scope, send: Send, addresses: ClientAddresses) -> None:
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        self.id = given if VALID_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.status: int | None = None
        peer, _ = scope.get("client") or ("", 0)
        self._client = addresses.find(peer, headers.getlist("x-forwarded-for"))
        scope.setdefault("state", {})["client"] = self._client
        self._scope = scope
        self._send = send
        self._started = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.id
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    def log(self) -> None:
        route = self._scope.get("route")
        principal = self._scope.get("state", {}).get("principal")
        # Strangers could fill the log; refusal_log.py reports them, with a limit.
        is_quiet = principal is None or self._scope["path"] in _DEBUG_PATHS
        level = logging.DEBUG if is_quiet else logging.INFO
        logger.log(
            level,
            "request",
            extra={
                "method": self._scope["method"],
                "route": getattr(route, "path", "-"),
                "status": self.status or CLIENT_DISCONNECTED,
                "seconds": round(time.perf_counter() - self._started, 4),
                "client": self._client,
                "principal": principal.id if principal else "-",
            },
        )
