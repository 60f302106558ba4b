from __future__ import annotations

from pathlib import Path

import pytest

from services.engine.core import LoadConfig
from services.engine.front.models.model_settings import (
    ModelSettings,
    read_model_settings,
    requires_reload,
)
from services.engine.settings import EngineSettings
from services.shared.errors import InvalidSettings
from services.shared.settings import read_settings


def test_the_engine_can_start_with_the_defaults() -> None:
    settings = EngineSettings()

    assert settings.preload == ()
    assert settings.memory_budget == "auto"


def test_preload_is_a_list_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINDLL_PRELOAD", "tiny, qwen3:0.6b,")

    assert EngineSettings().preload == ("tiny", "qwen3:0.6b")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MEMORY_BUDGET", "a lot"),
        ("CONTEXT_LENGTH", "-1"),
        ("MAX_SEQUENCES", "0"),
        ("GPU_LAYERS", "10001"),
        ("CACHE_TYPE_K", "q3"),
        ("DRAIN_SECONDS", "soon"),
        ("TARGET_STEP_MS", "0"),
    ],
)
def test_an_invalid_setting_stops_the_start_and_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"SPINDLL_{name}", value)

    with pytest.raises(SystemExit) as caught:
        read_settings(EngineSettings)

    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"SPINDLL_{name}: ")


def test_model_files_are_read_by_the_model_name_in_them(tmp_path: Path) -> None:
    (tmp_path / "any name.toml").write_text(
        'model = "qwen3:0.6b"\ncontext_length = 32768\nkeep_alive_seconds = -1\npin = true\n'
        'cache_type_k = "q8_0"\ntensor_split = [1.0, 2.0]\n'
    )
    (tmp_path / "notes.txt").write_text("no settings")

    assert read_model_settings(tmp_path) == {
        "qwen3:0.6b": ModelSettings(
            context_length=32768,
            keep_alive_seconds=-1,
            pin=True,
            cache_type_k="q8_0",
            tensor_split=(1.0, 2.0),
        )
    }


def test_without_the_folder_no_model_has_settings(tmp_path: Path) -> None:
    assert read_model_settings(tmp_path / "models.d") == {}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pin = true", "a.toml: Object missing required field `model`"),
        ('model = "m"\nmodel_path = "/etc/passwd"', "a.toml: there is no setting `model_path`"),
        ('model = "m"\ncontext_length = -1', "a.toml: context_length: Expected `int` >= 0"),
        ('model = "m"\npin = "yes"', "a.toml: pin: Expected `bool | null`, got `str`"),
        ('model = "m', "a.toml: not TOML: "),
    ],
)
def test_an_invalid_model_file_is_refused_and_file_and_field_are_named(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "a.toml").write_text(text)

    with pytest.raises(InvalidSettings) as caught:
        read_model_settings(tmp_path)

    assert caught.value.message.startswith(f"models.d/{sentence}")


def test_two_files_for_one_model_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text('model = "m"')

    with pytest.raises(InvalidSettings, match=r"b\.toml: m is in another file already"):
        read_model_settings(tmp_path)


def test_settings_override_their_fallback_field_by_field() -> None:
    base = ModelSettings(context_length=1, pin=True)

    assert ModelSettings(context_length=2, threads=3).with_fallback(base) == ModelSettings(
        context_length=2, threads=3, pin=True
    )


@pytest.mark.parametrize(
    ("requested", "reloads"),
    [
        (ModelSettings(), False),
        (ModelSettings(context_length=4096), False),
        (ModelSettings(context_length=8192), False),
        (ModelSettings(context_length=8193), True),
        (ModelSettings(cache_type_k="f16"), False),
        (ModelSettings(cache_type_k="q8_0"), True),
        (ModelSettings(cache_type_v="f16", max_sequences=16), False),  # the defaults
        (ModelSettings(max_sequences=17), True),
        (ModelSettings(pin=True, priority=3, keep_alive_seconds=1), False),
    ],
)
def test_a_loaded_model_is_reloaded_only_for_settings_it_does_not_meet(
    requested: ModelSettings, reloads: bool
) -> None:
    loaded = ModelSettings(cache_type_k="f16")

    config = LoadConfig(model_path="m", backend="llamacpp", context_length=8192)

    assert requires_reload(loaded, requested, config) is reloads
