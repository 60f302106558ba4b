"""macos/spindll where people, paths and launchd are not as they should be."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests.conftest import ROOT
from tests.macos.conftest import Mac
from tests.waiting import until

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


STRANGE = 'o\'Brien & "co" $(id) `x` \\ ä'


def test_every_command_works_in_a_home_with_any_characters(mac: Mac) -> None:
    mac.user = STRANGE
    mac.home.mkdir()
    keys = mac.data / "secrets"
    keys.mkdir(parents=True)
    (keys / "user.key").write_text("sk-" + "k" * 43)
    commands = ("install", "status", "logs", "open", "key", "stop", "start", "uninstall")
    results = {command: mac.launcher(command) for command in commands}

    assert {c: (r.returncode, r.stderr) for c, r in results.items()} == dict.fromkeys(
        commands, (0, "")
    )
    assert results["key"].stdout == "sk-" + "k" * 43 + "\n"
    assert results["uninstall"].stdout.endswith(f"are left in {mac.data}\n")
    assert sorted(path.name for path in mac.home.iterdir()) == ["Library"]


def test_a_link_to_the_launcher_is_the_launcher(mac: Mac) -> None:
    (mac.bin / "mac-spindll").symlink_to("../a & b/checkout/macos/spindll")
    result = subprocess.run(
        ["sh", str(mac.bin / "mac-spindll"), "help"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(mac.home)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")
    assert "macos/spindll install" in result.stdout


def test_a_start_that_fails_says_what_the_supervisor_said(mac: Mac) -> None:
    (mac.folder / "exit status of status").touch()
    (mac.folder / "up says").write_text(
        "spindll: port 8080 is in use: choose another with --port\n"
    )
    mac.add_program("sleep", "#!/bin/sh\n")
    failed = mac.launcher("install")
    (mac.folder / "up says").unlink()
    (mac.folder / "exit status of status").unlink()
    mended = mac.launcher("install", "--port", "8090")

    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "spindll: port 8080 is in use: choose another with --port"
        " (launchd tries again every 30 seconds)"
    )
    assert (mended.returncode, mended.stderr) == (0, "")


def test_services_that_run_without_the_agent_are_not_taken_for_it(mac: Mac) -> None:
    mac.launcher("install")
    (mac.folder / "agent.plist").rename(mac.folder / "kept")
    python = mac.root / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 0\n")
    result = mac.launcher("start")

    assert (result.returncode, result.stderr) == (
        1,
        "spindll: the services run already, without the agent: ./spindll down\n",
    )


def test_an_agent_that_does_not_end_is_not_removed(mac: Mac) -> None:
    mac.launcher("install")
    mac.facts["questions until the end"] = 1000
    mac.add_program("sleep", "#!/bin/sh\n")
    mac.add_program("seq", "#!/bin/sh\necho 1 2 3\n")
    result = mac.launcher("uninstall")

    assert (result.returncode, mac.plist.exists()) == (1, True)
    assert "did not end" in result.stderr


@pytest.mark.parametrize("word", ["--modles", "everything"])
def test_an_uninstall_refuses_what_it_does_not_know(mac: Mac, word: str) -> None:
    mac.launcher("install")
    result = mac.launcher("uninstall", word)

    assert (result.returncode, mac.plist.exists()) == (1, True)
    assert "--models" in result.stderr


def test_an_install_checks_its_options_first_and_its_help_installs_nothing(mac: Mac) -> None:
    shutil.rmtree(mac.root / ".venv")  # a set-up would take minutes, and fail here
    wrong = mac.launcher("install", "--port", "many")
    asked = mac.launcher("install", "--port", "8090", "--help")

    assert (wrong.returncode, "argument --port" in wrong.stderr) == (2, True)
    assert (asked.returncode, asked.stdout) == (0, mac.launcher("help").stdout)
    assert not (mac.root / ".venv").exists()


def test_a_redis_whose_password_the_agent_would_show_is_refused(mac: Mac) -> None:
    result = mac.launcher("install", SPINDLL_REDIS_URL="redis://:secret@10.0.0.1:6379/0")

    assert (result.returncode, mac.plist.exists()) == (1, False)
    assert "SPINDLL_REDIS_PASSWORD_FILE" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize("folder", ["documents/models", "link/models"])
def test_neither_capital_letters_nor_links_hide_a_folder(mac: Mac, folder: str) -> None:
    (mac.home / "Documents" / "models").mkdir(parents=True)
    (mac.home / "link").symlink_to(mac.home / "Documents")
    result = mac.launcher("install", "--data", str(mac.home / folder))

    assert (result.returncode, "launchd may not read" in result.stderr) == (1, True)


def test_a_folder_of_agents_that_cannot_be_used_is_named(mac: Mac) -> None:
    (mac.home / "Library").mkdir()
    mac.plist.parent.touch()
    result = mac.launcher("install")

    assert result.returncode == 1
    assert result.stderr == f"spindll: {mac.plist.parent}: File exists\n"


def test_the_mac_is_kept_awake_by_the_agent_where_that_is_asked_for(mac: Mac) -> None:
    mac.launcher("install")
    assert not [call for call in mac.calls if call.startswith("caffeinate")]
    result = mac.launcher("install", "--keep-awake", "--port", "8090")

    assert (result.returncode, result.stderr) == (0, "")
    assert until(lambda: [call for call in mac.calls if call.startswith("caffeinate -s -w ")])
    assert until(lambda: any(call.startswith("up --port 8090") for call in mac.stack_calls))


@pytest.mark.parametrize(("mode", "expected"), [("1", True), ("0", False)])
def test_the_status_names_low_power_mode(mac: Mac, mode: str, *, expected: bool) -> None:
    mac.facts["pmset -g"] = f" standby              1\n lowpowermode         {mode}\n sleep 1\n"
    mac.launcher("install")

    assert ("Low Power Mode is on" in mac.launcher("status").stdout) is expected
