from __future__ import annotations

from pathlib import Path

import pytest

from services.engine.core import Device, LoadConfig
from services.engine.front.models.planning.model_settings import (
    ModelSettings,
    ModelSettingsRegistry,
    read_model_settings,
    requires_reload,
)
from services.engine.settings import EngineSettings
from services.shared.errors import InvalidSettings
from services.shared.settings import read_settings
from services.shared.store.manifest import Description, Manifest


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
        ("KEEP_ALIVE_SECONDS", "nan"),
        ("MAX_SEQUENCES", "257"),
        ("CONTEXT_LENGTH", "16777217"),
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


def test_a_quantised_cache_of_values_without_flash_attention_stops_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPINDLL_CACHE_TYPE_V", "q8_0")
    monkeypatch.setenv("SPINDLL_FLASH_ATTENTION", "false")

    with pytest.raises(SystemExit):
        read_settings(EngineSettings)

    assert capsys.readouterr().err == (
        "SPINDLL_FLASH_ATTENTION: Value error, a quantised SPINDLL_CACHE_TYPE_V needs flash "
        "attention\n"
    )


GPUS = [Device(name=f"cuda{number}", label="x", total_bytes=1) for number in range(2)]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("main_gpu = 2", "main_gpu: there is no GPU 2: llama.cpp can use 2, from 0"),
        (
            "tensor_split = [1, 1, 1]",
            "tensor_split: 3 shares, but llama.cpp can use 2 GPUs",
        ),
        ("tensor_split = [inf]", "tensor_split: shares must be finite"),
        ("keep_alive_seconds = nan", "keep_alive_seconds: must be a number"),
        ("tensor_split = [0.0]", "tensor_split: at least one share must be above 0"),
        ('cache_type_v = "q4_0"', "cache_type_v: a quantised type needs flash attention"),
    ],
)
def test_a_model_file_that_does_not_fit_the_machine_or_the_settings_stops_the_start(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "a.toml").write_text(f'model = "m"\n{text}')
    base = ModelSettings(flash_attention=False)

    with pytest.raises(InvalidSettings) as caught:
        read_model_settings(tmp_path, base, GPUS)

    assert caught.value.message == f"models.d/a.toml: {sentence}"


@pytest.mark.parametrize("text", ["main_gpu = 1", "tensor_split = [0, 1]", "gpu_layers = 3"])
@pytest.mark.parametrize("devices", [GPUS, []], ids=["two gpus", "none"])
def test_a_model_file_may_name_devices_on_a_machine_without_any(
    tmp_path: Path, text: str, devices: list[Device]
) -> None:
    (tmp_path / "a.toml").write_text(f'model = "m"\n{text}')

    assert list(read_model_settings(tmp_path, devices=devices)) == ["m"]


def test_a_load_call_is_checked_together_with_the_settings_that_it_extends() -> None:
    manifest = Manifest(
        name="m:latest",
        source="t",
        created_at=0,
        files=(),
        description=Description(format="gguf", architecture="llama"),
    )
    files = {"m:latest": ModelSettings(flash_attention=False)}
    registry = ModelSettingsRegistry(ModelSettings(), files, GPUS)

    for requested, param in (
        (ModelSettings(cache_type_v="q8_0"), "cache_type_v"),
        (ModelSettings(main_gpu=5), "main_gpu"),
    ):
        with pytest.raises(InvalidSettings) as caught:
            registry.override(manifest, requested)
        assert caught.value.param == param
    assert registry.get(manifest) == files["m:latest"]  # a refused call changes nothing


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
        (ModelSettings(main_gpu=1), False),  # where it was planned to be
        (ModelSettings(main_gpu=0), True),
        (ModelSettings(tensor_split=(1.0, 1.0)), True),
        (ModelSettings(pin=True, priority=3, keep_alive_seconds=1), False),
    ],
)
def test_a_loaded_model_is_reloaded_only_for_settings_it_does_not_meet(
    requested: ModelSettings, reloads: bool
) -> None:
    loaded = ModelSettings(cache_type_k="f16")

    config = LoadConfig(model_path="m", backend="llamacpp", context_length=8192, devices=("cuda1",))

    assert requires_reload(loaded, requested, config) is reloads


@pytest.mark.parametrize(
    ("requested", "reloads"),
    [
        (ModelSettings(pin=True), False),
        (ModelSettings(context_length=4096, cache_type_k="q8_0"), False),
        (ModelSettings(context_length=8192), True),
        (ModelSettings(cache_type_k="f16"), True),
        (ModelSettings(max_sequences=16), True),  # what is not set is not planned yet
    ],
)
def test_a_load_that_is_planned_begins_again_only_for_settings_it_was_not_asked_for(
    requested: ModelSettings, reloads: bool
) -> None:
    planned = ModelSettings(cache_type_k="q8_0", context_length=4096)

    assert requires_reload(planned, requested, None) is reloads
