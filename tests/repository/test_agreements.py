"""Facts that stand in two places agree."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml

from services.api.errors import HTTP_STATUS
from services.shared import errors
from services.shared.pulls import job
from services.shared.redis import redis_keys

ROOT = Path(__file__).resolve().parents[2]
SERVICES = {"api", "engine", "puller"}


def test_every_error_has_an_http_status() -> None:
    assert set(HTTP_STATUS) >= set(errors.every_error())


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    tree = errors.__doc__ or ""

    assert [cls.__name__ for cls in errors.every_error() if cls.__name__ not in tree] == []


def test_no_two_errors_share_a_code() -> None:
    codes = [cls.code for cls in errors.every_error() if cls is not errors.SpindllError]

    assert sorted(codes) == sorted(set(codes))


def test_the_pull_function_that_the_api_names_exists() -> None:
    module, _, function = job.PULL_MODEL.rpartition(".")

    assert callable(getattr(importlib.import_module(module), function))


def list_redis_keys() -> list[str]:
    """Every key, with `{}` for its parameters."""
    names = []
    for name, value in vars(redis_keys).items():
        if name.startswith("_") or name == "PREFIX":
            continue
        if isinstance(value, str) and value.startswith(redis_keys.PREFIX):
            names.append(value)
        elif inspect.isfunction(value) and value.__module__ == redis_keys.__name__:
            names.append(value("{}"))
    return names


@pytest.mark.parametrize("key", list_redis_keys())
def test_every_redis_key_has_an_owner_and_a_lifetime(key: str) -> None:
    table = re.sub(r"\{[a-z_]+\}", "{}", redis_keys.__doc__ or "")

    assert f"| {key} |" in table


def test_the_services_of_compose_are_the_folders_of_services() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    long_lived = {
        name for name, service in compose["services"].items() if service.get("restart") != "no"
    }

    assert {name for name in long_lived if (ROOT / "services" / name).is_dir()} == SERVICES
    assert long_lived - SERVICES <= {"ready", "redis"} | names_with_a_profile(compose)


def names_with_a_profile(compose: dict[str, dict[str, dict[str, object]]]) -> set[str]:
    return {name for name, service in compose["services"].items() if service.get("profiles")}


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_has_a_main_module_and_its_own_tests(service: str) -> None:
    assert (ROOT / "services" / service / "__main__.py").is_file()
    assert (ROOT / "tests" / service).is_dir()


def test_every_make_target_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", (ROOT / "README.md").read_text()))

    assert named <= targets


def test_ci_runs_the_test_command_of_the_readme() -> None:
    last = (ROOT / ".ci" / "run").read_text().strip().splitlines()[-1]

    assert last == "exec make check"
    assert "make check" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("service", [*sorted(SERVICES), "cli", "shared"])
def test_the_folders_of_tests_follow_the_folders_of_services(service: str) -> None:
    tests, services = ROOT / "tests" / service, ROOT / "services" / service
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}

    assert [str(folder) for folder in folders if not (services / folder).is_dir()] == []
