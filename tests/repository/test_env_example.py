from __future__ import annotations

from pathlib import Path

from services.api.settings import ApiSettings
from services.engine.settings import EngineSettings
from services.puller.settings import PullerSettings
from tests.repository.env_example import COMPOSE_WHY, ROOT, SECTIONS, compose_variables, render


def test_the_committed_file_is_what_the_settings_say() -> None:
    assert (ROOT / ".env.example").read_text() == render(), "run `make env`"


def test_every_setting_has_a_description() -> None:
    silent = [
        f"{cls.__name__}.{name}"
        for _, cls in SECTIONS
        for name, field in cls.model_fields.items()
        if not field.description
    ]

    assert silent == []


def test_two_services_that_share_a_setting_mean_the_same_by_it() -> None:
    types: dict[str, set[str]] = {}
    for cls in (ApiSettings, EngineSettings, PullerSettings):
        for name, field in cls.model_fields.items():
            types.setdefault(name, set()).add(str(field.annotation))

    assert {name: found for name, found in types.items() if len(found) > 1} == {}


def test_the_example_as_it_is_sets_nothing() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []


def test_each_setting_is_there_once() -> None:
    names = [
        line.split("=")[0]
        for line in Path(ROOT / ".env.example").read_text().splitlines()
        if line.startswith("#") and "=" in line and not line.startswith("# ")
    ]

    assert sorted(names) == sorted(set(names))


def test_every_variable_of_compose_says_why_and_no_other_does() -> None:
    assert set(COMPOSE_WHY) == set(compose_variables())
