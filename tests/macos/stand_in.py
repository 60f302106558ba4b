"""The programs of a Mac, as far as the launcher calls them: `stand_in.py NAME ARGUMENTS…`.

STAND_INS is a folder with what they know: `facts.json`, `keychain.json`, and `agent.plist` while an
agent is loaded. `calls` gets a line for each call. launchctl starts the agent's program as launchd
does: with the environment of the plist and nothing else, its output appended to the agent's file.
"""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["STAND_INS"])
AGENT = FOLDER / "agent.plist"
ENDING = FOLDER / "ending"
KEYCHAIN = FOLDER / "keychain.json"


def main(name: str, arguments: list[str]) -> int:
    with (FOLDER / "calls").open("a") as calls:
        calls.write(shlex.join([name, *arguments]) + "\n")
    facts: dict[str, Any] = json.loads((FOLDER / "facts.json").read_text())
    match name:
        case "launchctl":
            return launchctl(facts, *arguments)
        case "security":
            return security(facts, arguments)
        case "brew" | "open" | "caffeinate":
            return 0
    answer = facts.get(shlex.join([name, *arguments]))
    if answer is None and name == "uname":  # pip asks for more than the launcher does
        return subprocess.run(["/bin/uname", *arguments], check=False).returncode
    if answer is None:
        print(f"{name}: no answer to {arguments}", file=sys.stderr)
        return 1
    print(answer)
    return 0


def launchctl(facts: dict[str, Any], action: str, target: str, plist: str = "") -> int:
    domain, _, label = target.partition("/local")
    if domain != "gui/501" or facts.get("no session"):
        print("Bootstrap failed: 125: Domain does not support specified action", file=sys.stderr)
        return 125
    match action:
        case "print":
            end_slowly()
            return 0 if AGENT.exists() else 113
        case "bootout" if questions := facts.get("questions until the end"):
            ENDING.write_text(str(questions))
            return 36
        case "bootout":
            AGENT.unlink()
            return 0
        case "bootstrap" if not AGENT.exists() and not label:
            shutil.copy(plist, AGENT)
            start(plistlib.loads(AGENT.read_bytes()))
            return 5 if facts.get("another start is faster") else 0
    return 5


def end_slowly() -> None:
    """Each question is answered with the agent that still ends, up to the last."""
    if not ENDING.exists():
        return
    left = int(ENDING.read_text()) - 1
    ENDING.write_text(str(left))
    if left == 0:
        ENDING.unlink()
        AGENT.unlink()


def start(agent: dict[str, Any]) -> None:
    # launchd appends; STAND_INS is the one addition.
    with Path(agent["StandardOutPath"]).open("ab") as log:
        subprocess.Popen(
            agent["ProgramArguments"],
            cwd=agent["WorkingDirectory"],
            env={
                "HOME": os.environ["HOME"],
                "STAND_INS": str(FOLDER),
                **agent["EnvironmentVariables"],
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def security(facts: dict[str, Any], arguments: list[str]) -> int:
    if facts.get("keychain locked"):
        return 36
    items: dict[str, str] = json.loads(KEYCHAIN.read_text()) if KEYCHAIN.exists() else {}
    if arguments == ["-i"]:
        arguments = shlex.split(sys.stdin.read())
    values = dict(pairwise(arguments))
    item = f"{values['-s']} {values['-a']}"
    match arguments[0]:
        case "add-generic-password":
            items[item] = bytes.fromhex(values["-X"]).decode()
        case "find-generic-password" if item in items:
            print(items[item])
            return 0
        case "delete-generic-password" if item in items:
            del items[item]
        case _:
            return 44
    KEYCHAIN.write_text(json.dumps(items))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).name, sys.argv[2:]))
