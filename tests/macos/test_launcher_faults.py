"""macos/spindll where people, paths and launchd are not as they should be."""

from __future__ import annotations

import re

import pytest

from tests.conftest import ROOT
from tests.macos.conftest import Mac

LAUNCHER = ROOT / "macos" / "spindll"


@pytest.mark.parametrize(
    "words",
    [("--data=~/big models",), ("--data", "~/big models"), ("--data", "home/big models")],
    ids=["joined", "quoted", "relative"],
)
def test_agent_launcher_and_logs_have_the_same_data_directory(
    mac: Mac, words: tuple[str, ...]
) -> None:
    result = mac.launcher("install", *words)
    data = mac.home / "big models"

    assert (result.returncode, result.stderr) == (0, "")
    assert mac.agent["EnvironmentVariables"]["SPINDLL_DATA_DIR"] == str(data)
    assert (data / "logs").is_dir()
    assert not (mac.folder / "~").exists()


def test_a_tilde_does_not_hide_a_folder_that_launchd_may_not_read(mac: Mac) -> None:
    result = mac.launcher("install", "--data=~/Documents/models")

    assert (result.returncode, "launchd may not read" in result.stderr) == (1, True)
    assert not mac.plist.exists()


def test_an_uninstall_deletes_nothing_of_the_user_in_the_data_directory(mac: Mac) -> None:
    mac.launcher("install", "--data", str(mac.home))
    (mac.home / "run").mkdir()
    (mac.home / "photos").mkdir()
    result = mac.launcher("uninstall", "--models")

    assert result.stdout == (
        f"removed, with models, keys and logs; {mac.home} is left, with what else is in it\n"
    )
    assert sorted(path.name for path in mac.home.iterdir()) == ["Library", "photos"]


def test_an_uninstall_deletes_what_a_linked_data_directory_has(mac: Mac) -> None:
    drive = mac.folder / "drive"
    drive.mkdir()
    (mac.home / "data").symlink_to(drive)
    mac.launcher("install", "--data", str(mac.home / "data"))
    for name in ("run", "models"):
        (drive / name).mkdir()
    result = mac.launcher("uninstall", "--models")

    assert result.returncode == 0
    assert list(drive.iterdir()) == []


def test_an_uninstall_names_all_folders_of_the_services() -> None:
    code = "".join(path.read_text() for path in (ROOT / "services").rglob("*.py"))
    named = re.search(r"for name in (engine .*) \.DS_Store; do", LAUNCHER.read_text())

    assert named is not None
    assert set(named[1].split()) == set(re.findall(r'data_dir / "([^"]+)"', code))


@pytest.mark.parametrize("content", ["", "<plist>", "<plist><dict/></plist>", "[]"])
def test_a_damaged_agent_is_named_and_mended_by_an_install(mac: Mac, content: str) -> None:
    mac.launcher("install")
    mac.plist.write_text(content)
    result = mac.launcher("uninstall")

    assert (result.returncode, result.stderr) == (
        1,
        f"spindll: {mac.plist} is damaged: run macos/spindll install again\n",
    )
    assert mac.launcher("install").returncode == 0
    assert mac.launcher("uninstall").returncode == 0


def test_of_two_starts_at_once_both_succeed(mac: Mac) -> None:
    mac.launcher("install")
    mac.launcher("stop")
    mac.facts["another start is faster"] = True
    mac.add_program("sleep", "#!/bin/sh\n")
    result = mac.launcher("start")

    assert (result.returncode, result.stderr) == (0, "")


def test_a_stop_ends_when_the_agent_has_ended(mac: Mac) -> None:
    mac.launcher("install")
    mac.facts["questions until the end"] = 3
    mac.add_program("sleep", "#!/bin/sh\n")

    assert mac.launcher("stop").returncode == 0
    assert mac.launcher("start").returncode == 0
    assert (mac.folder / "agent.plist").exists()
    assert not (mac.folder / "ending").exists()
