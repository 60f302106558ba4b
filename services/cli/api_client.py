"""Talks HTTP to a running stack; every way it can fail becomes a Problem in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import quote

import httpx

from services.cli.connection import Connection
from services.cli.errors import CommandError

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 60.0

JsonObject = dict[str, Any]


class ApiClient:
    """One connection's requests. Close it, or use it as a context manager."""

    def __init__(self, connection: Connection) -> None:
        self._url = connection.url
        self._http = httpx.Client(
            base_url=connection.url,
            headers={"Authorization": f"Bearer {connection.key}"} if connection.key else None,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # The stack is on this computer or named by URL; a proxy would only get the key.
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
        """The answer to a JSON object."""
        return self._request("POST", path, body)

    def delete(self, path: str) -> JsonObject:
        """The answer to a deletion; empty where there is none."""
        return self._request("DELETE", path)

    def readiness(self) -> tuple[bool, JsonObject]:
        """Whether a chat would succeed, and all that /ready says."""
        with self._in_words():
            answer = self._http.get("/ready")
        return answer.status_code == 200, _object(answer)

    def stream_chat(self, body: Mapping[str, object]) -> Iterator[JsonObject]:
        """The chunks of a streamed chat. An error inside the stream is a Problem too."""
        request = {**body, "stream": True}
        no_end = httpx.Timeout(None, connect=CONNECT_SECONDS)  # a load may come first
        with (
            self._in_words(),
            self._http.stream(
                "POST", "/v1/chat/completions", json=request, timeout=no_end
            ) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            for line in answer.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk: JsonObject = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise CommandError(str(chunk["error"].get("message", "the answer broke off")))
                yield chunk

    def _request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> JsonObject:
        with self._in_words():
            answer = self._http.request(method, path, json=body)
        if answer.is_error:
            raise _refusal(answer)
        return _object(answer)

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise CommandError(f"nobody answers at {self._url}") from error
        except httpx.TimeoutException as error:
            raise CommandError(f"{self._url} does not answer in time") from error
        except httpx.HTTPError as error:
            raise CommandError(f"the connection to {self._url} broke off") from error


def model_path(name: str) -> str:
    """The path of a model; its name may hold slashes."""
    return "/v1/models/" + quote(name, safe="/:@")


def _object(answer: httpx.Response) -> JsonObject:
    try:
        body = answer.json() if answer.content else {}
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}


def _refusal(answer: httpx.Response) -> CommandError:
    error = _object(answer).get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return CommandError(
        str(message or f"the server said {answer.status_code} {answer.reason_phrase}")
    )
