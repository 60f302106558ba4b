from __future__ import annotations

import pytest
from pydantic import ValidationError

from services.api.settings import ApiSettings


def test_by_default_the_api_listens_on_the_loopback_address_only() -> None:
    settings = ApiSettings()

    assert settings.api_host == "127.0.0.1"
    assert 1 <= settings.worker_count <= 2
    assert settings.cors_origins == ()


def test_origins_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINDLL_CORS_ORIGINS", "https://a.example, https://b.example,")

    assert ApiSettings().cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    ("name", "value"),
    [("API_PORT", "70000"), ("MAX_BODY_BYTES", "1"), ("SSE_KEEPALIVE_SECONDS", "0")],
)
def test_values_out_of_range_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SPINDLL_{name}", value)

    with pytest.raises(ValidationError, match=name.lower()):
        ApiSettings()
