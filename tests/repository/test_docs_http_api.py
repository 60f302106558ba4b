"""docs/reference/http-api.md describes the routes that the application has, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from protos import spindll_pb2
from services.api import errors as http_errors
from services.api.app import create_app
from services.api.middleware.authentication import PUBLIC_PATHS
from services.api.settings import ApiSettings
from services.shared.errors import SpindllError, every_error
from tests.repository.documents import DOCS

PAGE = (DOCS / "reference" / "http-api.md").read_text()
_ROUTE = re.compile(
    r"^### `([A-Z]+) (/\S*)`\nKey: (none|user|admin)\.(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL
)
DOCUMENTED = {(method, path): (key, text) for method, path, key, text in _ROUTE.findall(PAGE)}

Route = tuple[str, str]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    data_dir: Path = tmp_path_factory.mktemp("data")
    return create_app(ApiSettings(data_dir=data_dir, grpc_port=0))


def list_routes(app: FastAPI) -> set[Route]:
    described = app.openapi()["paths"]
    found = {(method.upper(), path) for path, methods in described.items() for method in methods}
    return found | ({("GET", app.openapi_url)} if app.openapi_url else set())


def test_every_route_is_documented_and_every_documented_route_exists(app: FastAPI) -> None:
    assert set(DOCUMENTED) == list_routes(app)


def test_every_heading_of_a_route_says_which_key_it_needs() -> None:
    headings = re.findall(r"^### `([A-Z]+) (/\S*)`", PAGE, re.MULTILINE)

    assert headings == list(DOCUMENTED)


@pytest.mark.parametrize("route", DOCUMENTED, ids=" ".join)
def test_every_route_has_a_request_and_an_answer(route: Route) -> None:
    _, text = DOCUMENTED[route]
    blocks = re.findall(r"(?:^    .*\n?)+", text, re.MULTILINE)

    assert "    curl " in blocks[0]
    assert len(blocks) >= 2


def test_the_routes_without_a_key_are_the_ones_the_middleware_lets_in() -> None:
    open_routes = {path for (_, path), (key, _) in DOCUMENTED.items() if key == "none"}

    assert open_routes == PUBLIC_PATHS


def test_the_routes_that_need_the_admin_key_are_the_ones_that_require_it(app: FastAPI) -> None:
    documented = {route for route, (key, _) in DOCUMENTED.items() if key == "admin"}

    assert documented == {route for route, admin in api_routes(app) if admin}


def test_every_error_is_in_the_table_with_its_status() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `([a-z_]+)` \|", PAGE, re.MULTILINE)
    leaves = [cls for cls in every_error() if cls is not SpindllError]
    actual = {(str(http_errors.HTTP_STATUS[cls]), cls.code) for cls in leaves}

    assert set(rows) == actual


def test_every_method_of_the_public_grpc_service_is_documented() -> None:
    section = PAGE[PAGE.index("## gRPC") :]
    rows = re.findall(r"^\| `([A-Z][A-Za-z]+)` \|", section, re.MULTILINE)
    service = spindll_pb2.DESCRIPTOR.services_by_name["Spindll"]

    assert sorted(rows) == sorted(method.name for method in service.methods)


def api_routes(app: FastAPI) -> list[tuple[Route, bool]]:
    """Every route of the included routers, and whether it depends on the admin's key."""
    found = []
    for included in app.routes:
        router = getattr(included, "original_router", None)
        for route in router.routes if router is not None else [included]:
            if isinstance(route, APIRoute):
                path = re.sub(r":[a-z]+}", "}", route.path)
                found += [((m, path), needs_admin(route.dependant)) for m in route.methods or ()]
    return found


def needs_admin(dependant: Dependant) -> bool:
    """Whether anything that a route depends on checks for the admin."""
    name = getattr(dependant.call, "__name__", "")
    return "admin" in name or any(needs_admin(d) for d in dependant.dependencies)
