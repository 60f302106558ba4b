"""GET /openapi.json: what FastAPI knows of the routes, and what only we know.

The bodies are parsed by a dependency and the keys are checked by a middleware, so FastAPI sees
neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.api.middleware.authentication import PUBLIC_PATHS
from services.api.request_body import BodyParser

_REF = "#/components/schemas/{model}"
_FRAMEWORK_SCHEMAS = ("HTTPValidationError", "ValidationError")  # of its 422
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_ERROR_RESPONSE = {
    "description": "An error",
    "content": {"application/json": {"schema": {"$ref": _REF.format(model="Error")}}},
}


def describe_api(app: FastAPI, routers: Iterable[APIRouter]) -> None:
    """Complete the description that the application makes of itself, when it is asked for."""
    bodies = dict(_find_bodies(routers))
    describe = app.openapi

    def describe_all() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(describe(), bodies)
        return app.openapi_schema

    app.openapi = describe_all  # type: ignore[method-assign]


def _find_bodies(
    routers: Iterable[APIRouter],
) -> Iterator[tuple[tuple[str, str], type[BaseModel]]]:
    """The body of each route that has one, by path and method."""
    routes = (route for router in routers for route in router.routes)
    for route in routes:
        if not isinstance(route, APIRoute):
            continue
        for dependency in route.dependant.dependencies:
            if isinstance(dependency.call, BodyParser):
                for method in route.methods or ():
                    yield (route.path_format, method.lower()), dependency.call.model


def _complete(
    described: dict[str, Any], bodies: dict[tuple[str, str], type[BaseModel]]
) -> dict[str, Any]:
    models = sorted(set(bodies.values()), key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF
    )
    components = described.setdefault("components", {})
    own = {k: v for k, v in components.get("schemas", {}).items() if k not in _FRAMEWORK_SCHEMAS}
    components["schemas"] = {**own, **definitions.get("$defs", {}), "Error": _ERROR_SCHEMA}
    components["securitySchemes"] = _SECURITY_SCHEMES
    described["security"] = [{name: []} for name in _SECURITY_SCHEMES]
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            # FastAPI announces its own 422 for the parameters; ours is a 400.
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = _ERROR_RESPONSE
            if path in PUBLIC_PATHS:
                operation["security"] = []
            if (model := bodies.get((path, method))) is not None:
                operation["requestBody"] = _describe_body(model)
    return described


def _describe_body(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=model.__name__)}
    has_required = any(field.is_required() for field in model.model_fields.values())
    return {"content": {"application/json": {"schema": schema}}, "required": has_required}
