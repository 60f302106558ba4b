"""macos/spindll, run by sh, among stand-ins for the programs of a Mac."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.macos.conftest import Mac
from tests.waiting import until

LAUNCHER = ROOT / "macos" / "spindll"


def test_the_script_is_plain_sh() -> None:
    subprocess.run(["sh", "-n", LAUNCHER], check=True)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, LAUNCHER], check=True)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"uname -s": "Linux"}, "this is the launcher for Macs; elsewhere use ./spindll"),
        ({"uname -m": "x86_64"}, "needs a Mac with Apple silicon"),
        (
            {"uname -m": "x86_64", "sysctl -n sysctl.proc_translated": "1"},
            "this terminal runs under Rosetta",
        ),
        ({"sw_vers -productVersion": "13.7.1"}, "needs macOS 14 or newer, and this is 13.7.1"),
        ({"no session": True}, "launchd refused the agent: log in at the screen"),
    ],
    ids=["linux", "intel", "rosetta", "old", "ssh"],
)
def test_an_install_that_cannot_work_says_why(
    mac: Mac, facts: dict[str, Any], message: str
) -> None:
    mac.facts |= facts
    result = mac.launcher("install")

    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"spindll: {message}")
    assert not (mac.folder / "agent.plist").exists()


def test_root_is_refused_before_anything_happens(mac: Mac) -> None:
    mac.launcher("install")
    calls = mac.calls
    commands = ("install", "uninstall", "start", "stop", "status", "key")
    results = [mac.launcher(command, STAND_IN_UID="0") for command in commands]

    assert {(result.returncode, result.stderr) for result in results} == {
        (1, "spindll: run it as yourself, without sudo: nothing here needs root\n")
    }
    assert (mac.plist.exists(), mac.calls) == (True, calls)


@pytest.mark.parametrize("answer", ["x86_64 3.13", "arm64 3.9", ""], ids=["rosetta", "old", "shim"])
def test_a_python_that_cannot_have_mlx_is_passed_over(mac: Mac, answer: str) -> None:
    mac.add_program("python3.13", f"#!/bin/sh\necho {answer}\n")
    result = mac.launcher("install")

    assert result.stderr == (
        "spindll: needs Python 3.11, 3.12 or 3.13 for Apple silicon: brew install python@3.13\n"
    )


@pytest.mark.parametrize("folder", ["Documents", "Desktop/x", "Library/Mobile Documents/x"])
def test_a_folder_that_launchd_may_not_read_is_refused(mac: Mac, folder: str) -> None:
    result = mac.launcher("install", "--data", str(mac.home / folder))

    assert result.returncode == 1
    assert "launchd may not read" in result.stderr
    assert not mac.plist.exists()


def test_an_install_starts_the_stack_as_an_agent(mac: Mac) -> None:
    result = mac.launcher("install", "--port", "8090")

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1] == (
        "Spindll runs at http://127.0.0.1:8090, and starts when you log in"
    )
    assert until(lambda: f"up --port 8090 data={mac.data} token=" in mac.stack_calls)
    assert mac.plist.stat().st_mode & 0o777 == 0o600
    assert (mac.data / "logs").stat().st_mode & 0o777 == 0o700


def test_a_second_install_replaces_the_agent(mac: Mac) -> None:
    mac.launcher("install")
    result = mac.launcher("install", "--port", "8090")

    assert (result.returncode, mac.agent["ProgramArguments"][-1]) == (0, "8090")
    assert [call.split()[1] for call in mac.calls if call.startswith("launchctl")] == [
        *("print", "bootstrap"),
        *("print", "bootout", "print", "bootstrap"),
    ]


def test_an_option_that_up_does_not_have_is_refused_before_anything_is_written(mac: Mac) -> None:
    result = mac.launcher("install", "--prot", "8090")

    assert result.returncode == 2
    assert "unrecognized arguments: --prot 8090" in result.stderr
    assert not mac.plist.exists()


def test_stop_start_and_uninstall(mac: Mac) -> None:
    mac.launcher("install")
    assert mac.launcher("stop").returncode == 0
    assert not (mac.folder / "agent.plist").exists()
    assert f"down data={mac.data} token=" in mac.stack_calls
    assert mac.launcher("start").stdout == "Spindll runs at http://127.0.0.1:8080\n"
    assert (mac.folder / "agent.plist").exists()

    result = mac.launcher("uninstall")
    assert result.stdout == f"removed; models, keys and logs are left in {mac.data}\n"
    assert (mac.plist.exists(), mac.data.exists()) == (False, True)
    assert mac.launcher("status").stderr == "spindll: not installed: run macos/spindll install\n"


@pytest.mark.parametrize("command", ["stop", "logs", "open", "status"])
def test_a_python_that_was_removed_is_named(mac: Mac, command: str) -> None:
    mac.launcher("install")
    (mac.bin / "python3.13").unlink()
    result = mac.launcher(command)

    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("spindll: needs Python 3.11, 3.12 or 3.13")


def test_an_agent_whose_stack_cannot_be_stopped_is_removed_all_the_same(mac: Mac) -> None:
    mac.launcher("install")
    (mac.folder / "exit status of down").touch()

    assert mac.launcher("uninstall").returncode == 0
    assert not (mac.folder / "agent.plist").exists()


def test_only_a_data_directory_is_deleted(mac: Mac) -> None:
    mac.launcher("install")
    result = mac.launcher("uninstall", "--models")
    assert "is not a data directory of Spindll" in result.stderr
    assert mac.data.exists()

    mac.launcher("install")
    (mac.data / "run").mkdir()
    result = mac.launcher("uninstall", "--models")
    assert result.stdout == "removed, with models, keys and logs\n"
    assert not mac.data.exists()


def test_status_is_that_of_the_stack(mac: Mac) -> None:
    mac.launcher("install")
    good = mac.launcher("status")
    (mac.folder / "exit status of status").touch()
    bad = mac.launcher("status")

    assert (good.returncode, bad.returncode) == (0, 1)
    assert good.stdout.startswith("agent       loaded\nmemory      models may take about 21845 of")


@pytest.mark.parametrize(
    ("megabytes", "limit", "expected"),
    [
        (16384, 0, "about 10922 of 16384 MB, the default of macOS"),
        (65536, 0, "about 49152 of 65536 MB, the default of macOS"),
        (16384, 12288, "up to 12288 of 16384 MB (iogpu.wired_limit_mb is set)\n"),
        (16384, 16000, "leaves macOS less than 4096 MB"),
    ],
    ids=["small", "large", "set", "dangerous"],
)
def test_the_limit_of_wired_memory_is_explained_and_never_set(
    mac: Mac, megabytes: int, limit: int, expected: str
) -> None:
    mac.facts |= {
        "sysctl -n hw.memsize": str(megabytes << 20),
        "sysctl -n iogpu.wired_limit_mb": str(limit),
    }
    assert expected in mac.launcher("install").stdout

    calls = [call for call in mac.calls if call.startswith("sysctl")]
    assert set(calls) == {"sysctl -n hw.memsize", "sysctl -n iogpu.wired_limit_mb"}


def test_without_any_redis_homebrew_brings_it(mac: Mac) -> None:
    shutil.rmtree(mac.root / ".venv" / "embedded-redis")
    without = mac.launcher("install")
    mac.add_program("brew", f'#!/bin/sh\necho "brew $*" >>"{mac.folder}/calls"\n')
    result = mac.launcher("install")

    if shutil.which("redis-server", path="/usr/bin:/bin:/usr/local/bin"):
        pytest.skip("this computer has a Redis on PATH")
    assert "there is no Redis: install Homebrew" in without.stderr
    assert (result.returncode, "brew install redis" in mac.calls) == (0, True)


def test_open_shows_whether_a_chat_would_succeed(mac: Mac) -> None:
    mac.launcher("install", "--host", "0.0.0.0", "--port", "8090")
    mac.launcher("open")

    assert mac.calls[-1] == "open http://127.0.0.1:8090/ready"


def test_an_unknown_command_leads_to_the_help(mac: Mac) -> None:
    result = mac.launcher("pull")

    assert (result.returncode, "macos/spindll help" in result.stderr) == (1, True)
    assert "macos/spindll install" in mac.launcher("help").stdout


def test_the_facts_of_the_stand_ins_are_what_the_launcher_asks_for(mac: Mac) -> None:
    mac.launcher("install")
    asked = {call for call in mac.calls if call.split()[0] in ("uname", "sw_vers", "sysctl")}

    assert asked == set(json.loads((mac.folder / "facts.json").read_text()))
