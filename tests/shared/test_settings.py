from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.redis.redis_client import url_with_password
from services.shared.settings import SharedSettings, read_settings


def test_a_setting_comes_from_its_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINDLL_DATA_DIR", "/srv/spindll")

    assert read_settings(SharedSettings).models_dir == Path("/srv/spindll/models")


def test_a_wrong_value_stops_the_process_and_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPINDLL_LOG_LEVEL", "loud")

    with pytest.raises(SystemExit) as stop:
        read_settings(SharedSettings)

    assert stop.value.code == 2
    assert "SPINDLL_LOG_LEVEL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://redis:6379/0", "redis://:s%2Fcret@redis:6379/0"),
        ("redis://:own@redis:6379/0", "redis://:own@redis:6379/0"),
    ],
    ids=["put in", "kept"],
)
def test_redis_password_comes_from_a_file(tmp_path: Path, url: str, expected: str) -> None:
    secret = tmp_path / "redis.password"
    secret.write_text("s/cret\n")

    assert url_with_password(url, secret) == expected
