"""GET /openapi.json describes bodies and keys, which FastAPI does not see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from services.api.app import create_app
from services.api.middleware.authentication import PUBLIC_PATHS
from services.api.settings import ApiSettings

BODIES = {
    ("/v1/chat/completions", "post"): "ChatCompletionRequest",
    ("/v1/completions", "post"): "CompletionRequest",
    ("/v1/keys", "post"): "KeyRequest",
    ("/v1/models/{name}/load", "post"): "LoadOptions",
    ("/v1/models/{name}/copy", "post"): "CopyRequest",
    ("/v1/models/{name}/update", "post"): "UpdateRequest",
    ("/v1/models/{name}/plan", "post"): "LoadOptions",
    ("/v1/models/{name}/unload", "post"): "UnloadOptions",
    ("/v1/pulls", "post"): "PullRequest",
    ("/v1/embeddings", "post"): "EmbeddingRequestBody",
    ("/v1/rerank", "post"): "RerankRequestBody",
    ("/rerank", "post"): "RerankRequestBody",
    ("/apply-template", "post"): "ChatCompletionRequest",
    ("/detokenize", "post"): "DetokenizeRequestBody",
    ("/tokenize", "post"): "TokenizeRequestBody",
    ("/v1/prefixes", "post"): "PrefixRequest",
    ("/v1/chat/completions/input_tokens", "post"): "ChatCompletionRequest",
    ("/v1/pulls/{job_id}/priority", "post"): "PriorityRequest",
}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Any:
    data_dir: Path = tmp_path_factory.mktemp("data")
    return create_app(ApiSettings(data_dir=data_dir, grpc_port=0)).openapi()


def test_every_body_is_described(described: Any) -> None:
    found = {
        (path, method): operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
        if "requestBody" in operation
    }

    assert found == {key: f"#/components/schemas/{name}" for key, name in BODIES.items()}
    assert described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["required"]


def test_every_reference_leads_somewhere(described: Any) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))

    assert names <= set(described["components"]["schemas"])
    assert "$defs" not in json.dumps(described)


def test_every_operation_needs_a_key_but_the_public_ones(described: Any) -> None:
    assert set(described["components"]["securitySchemes"]) == {"bearer", "header"}
    assert described["security"] == [{"bearer": []}, {"header": []}]
    without = {
        path
        for path, operations in described["paths"].items()
        for operation in operations.values()
        if operation.get("security") == []
    }
    assert without == PUBLIC_PATHS


def test_errors_are_described_and_no_422(described: Any) -> None:
    operations = [o for path in described["paths"].values() for o in path.values()]

    assert all("default" in operation["responses"] for operation in operations)
    assert not any("422" in operation["responses"] for operation in operations)
