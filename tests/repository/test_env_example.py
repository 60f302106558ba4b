from __future__ import annotations

import re
from pathlib import Path

from services.api.settings import ApiSettings
from services.engine.settings import EngineSettings
from services.puller.settings import PullerSettings
from tests.repository.env_example import (
    COMPOSE_DESCRIPTIONS,
    NOT_IN_CONTAINERS,
    ROOT,
    SECTIONS,
    find_settings_of_compose,
    read_compose_variables,
    render_env_example,
    setting_variables,
)


def test_the_committed_file_matches_the_settings() -> None:
    assert (ROOT / ".env.example").read_text() == render_env_example(), "run `make env`"


def test_every_setting_has_a_description() -> None:
    undocumented = [
        f"{cls.__name__}.{name}"
        for _, cls in SECTIONS
        for name, field in cls.model_fields.items()
        if not field.description
    ]

    assert undocumented == []


def test_a_setting_that_services_share_has_one_type() -> None:
    types: dict[str, set[str]] = {}
    for cls in (ApiSettings, EngineSettings, PullerSettings):
        for name, field in cls.model_fields.items():
            types.setdefault(name, set()).add(str(field.annotation))

    assert {name: found for name, found in types.items() if len(found) > 1} == {}


def test_the_unchanged_example_sets_nothing() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []


def test_a_setting_without_effect_in_containers_is_marked() -> None:
    entries = re.findall(r"((?:^# .*\n)+)#(SPINDLL_\w+)=", render_env_example(), re.MULTILINE)
    marked = {
        name for comment, name in entries if NOT_IN_CONTAINERS in comment.replace("\n# ", " ")
    }

    assert marked == setting_variables() - find_settings_of_compose()
    assert {"SPINDLL_API_PORT", "SPINDLL_REDIS_URL"} <= marked
    assert "SPINDLL_HF_TOKEN_FILE" not in marked


def test_each_setting_appears_once() -> None:
    names = [
        line.split("=")[0]
        for line in Path(ROOT / ".env.example").read_text().splitlines()
        if line.startswith("#") and "=" in line and not line.startswith("# ")
    ]

    assert sorted(names) == sorted(set(names))


def test_the_described_compose_variables_are_the_ones_that_compose_reads() -> None:
    assert set(COMPOSE_DESCRIPTIONS) == set(read_compose_variables())
