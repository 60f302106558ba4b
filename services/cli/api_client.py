"""HTTP requests to a running stack; a failure becomes a CommandError."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import quote

import httpx

from services.cli.connection import Connection
from services.cli.errors import CommandError
from services.cli.formatting import printable

CONNECT_TIMEOUT_SECONDS = 5.0
RESPONSE_TIMEOUT_SECONDS = 60.0

JsonObject = dict[str, Any]


class ApiClient:
    """The API of one stack. A context manager, which closes the connection."""

    def __init__(self, connection: Connection) -> None:
        self.url = connection.url
        self._http = httpx.Client(
            base_url=connection.url,
            headers={"Authorization": f"Bearer {connection.key}"} if connection.key else None,
            timeout=httpx.Timeout(RESPONSE_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            # The stack is on this computer or at an explicit URL; a proxy would see the API key.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str) -> JsonObject:
        """The JSON object at a path."""
        return self._request("GET", path)

    def post(self, path: str, body: Mapping[str, object]) -> JsonObject:
        """The JSON object that answers a posted JSON object."""
        return self._request("POST", path, body)

    def delete(self, path: str) -> JsonObject:
        """The JSON object that answers a deletion; empty when the response has no body."""
        return self._request("DELETE", path)

    def readiness(self) -> tuple[bool, JsonObject]:
        """Whether a chat would succeed, and the JSON object of /ready."""
        with self._translated_errors():
            response = self._http.get("/ready")
        return response.status_code == 200, _json_object(response)

    def stream_chat(self, body: Mapping[str, object]) -> Iterator[JsonObject]:
        """The chunks of a streamed chat. An error inside the stream raises CommandError too."""
        request = {**body, "stream": True}
        # No limit after the connect: the model may have to be loaded first.
        no_limit = httpx.Timeout(None, connect=CONNECT_TIMEOUT_SECONDS)
        with (
            self._translated_errors(),
            self._http.stream(
                "POST", "/v1/chat/completions", json=request, timeout=no_limit
            ) as response,
        ):
            if response.is_error:
                response.read()
                raise _error_from(response)
            for line in response.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk: JsonObject = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    message = chunk["error"].get("message", "the answer was cut off")
                    raise CommandError(printable(str(message)))
                yield chunk

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> JsonObject:
        with self._translated_errors():
            response = self._http.request(method, path, json=body)
        if response.is_error:
            raise _error_from(response)
        return _json_object(response)

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise CommandError(f"cannot connect to {self.url}") from error
        except httpx.TimeoutException as error:
            raise CommandError(f"{self.url} did not respond in time") from error
        except httpx.HTTPError as error:
            raise CommandError(f"the connection to {self.url} was lost") from error


def model_path(name: str) -> str:
    """The API path of a model; its name may contain slashes."""
    return "/v1/models/" + quote(name, safe="/:@")


def _json_object(response: httpx.Response) -> JsonObject:
    try:
        body = response.json() if response.content else {}
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}


def _error_from(response: httpx.Response) -> CommandError:
    error = _json_object(response).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    status = f"the server answered {response.status_code} {response.reason_phrase}"
    return CommandError(printable(str(message or status)))
