"""The middleware that authenticates every HTTP request before its body is read.

Every path except the public ones needs a key; no setting changes that. A public path answers
without one, and with more to a valid key. It is a plain ASGI middleware, so that it runs before a
body is read and for unknown routes too. It stores the principal as `request.state.principal`; the
routes check roles (dependencies.py).
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from services.api.access.principal import Authenticator, extract_key
from services.api.errors import build_error_response
from services.shared.errors import SpindllError

PUBLIC_PATHS = frozenset({"/health", "/ready"})


class AuthenticationMiddleware:
    """Passes an authenticated request on with its principal; answers any other with an error."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_public = scope["path"] in PUBLIC_PATHS
        if not is_public or extract_key(headers):
            try:
                scope["state"]["principal"] = await self._authenticator.authenticate(
                    headers, client=scope["state"]["client"]
                )
            except SpindllError as error:
                if not is_public:
                    await build_error_response(error)(scope, receive, send)
                    return
        await self._app(scope, receive, send)
