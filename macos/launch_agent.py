"""Write and read the agent of launchd, which `macos/spindll` installs.

    launch_agent.py write PLIST --python-dir DIR --data DIR [options of `spindll up`]
    launch_agent.py check --data DIR [options of `spindll up`]
    launch_agent.py data PLIST      print its data directory
    launch_agent.py url PLIST       print the address that its api listens on

Standard library only: it runs before .venv exists.
"""

from __future__ import annotations

import argparse
import os
import plistlib
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "macos" / "local.spindll.plist"

# Of other programs, for downloads.
_PROXY_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE"})
# What must not be written to the agent, which tools of launchd show to all users: tokens, and
# addresses with a password or a signature.
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|SECRET|KEY)$")
_SECRET_VALUE = re.compile(r"://[^/]*@|://.*\?")


def main(arguments: Sequence[str]) -> int:
    """Run one of the four commands."""
    if arguments[0] == "check":
        parse_options(["--python-dir", "", *arguments[1:]])
        return 0
    command, plist, *rest = arguments
    path = Path(plist)
    if command == "write":
        values, options = parse_options(rest)
        settings, left_out = choose_settings(os.environ)
        for name in left_out:
            print(f"{name} looks like a secret and is not written to the agent", file=sys.stderr)
        write_agent(path, build_agent(values, options, settings))
        return 0
    agent = read_agent(path)
    print(read_data_dir(agent) if command == "data" else read_url(agent))
    return 0


def parse_options(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The values of the template, and the options of `up`. Exits with a message when one is wrong.

    All paths are absolute: launchd knows no folder of ours.
    """
    parser = argparse.ArgumentParser(prog="macos/spindll install", allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder for models, keys and logs")
    parser.add_argument("--python-dir", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, help="HTTP port (8080)")
    parser.add_argument("--grpc-port", type=int, help="public gRPC port (50051); 0 turns it off")
    parser.add_argument("--workers", type=int, help="number of api processes")
    parser.add_argument("--keep-awake", action="store_true", help="no sleep with a power cable")
    parsed = vars(parser.parse_args(arguments))
    keep_awake = ["--keep-awake"] if parsed.pop("keep_awake") else []
    values = {
        "@ROOT@": str(ROOT),
        "@DATA@": str(parsed.pop("data").expanduser().absolute()),
        "@PYTHON_DIR@": str(parsed.pop("python_dir").absolute()),
    }
    options = keep_awake + [
        word
        for name, value in parsed.items()
        if value is not None
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return values, options


def choose_settings(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The settings and proxies for the agent, and the names of those that are secrets."""
    found = {
        name: value
        for name, value in environment.items()
        if (name.startswith("SPINDLL_") or name.upper() in _PROXY_NAMES)
        and value
        and name != "SPINDLL_DATA_DIR"
    }
    secrets = [
        name
        for name, value in found.items()
        if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value)
    ]
    return {name: value for name, value in found.items() if name not in secrets}, sorted(secrets)


def build_agent(
    values: Mapping[str, str], options: Sequence[str], settings: Mapping[str, str]
) -> dict[str, Any]:
    """Fill in the template."""
    agent: dict[str, Any] = _fill(plistlib.loads(TEMPLATE.read_bytes()), values)
    agent["ProgramArguments"] += options
    agent["EnvironmentVariables"] |= settings
    return agent


def write_agent(path: Path, agent: Mapping[str, Any]) -> None:
    """Write the file for this user only; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        plistlib.dump(agent, file)
    partial.replace(path)


def read_agent(path: Path) -> dict[str, Any]:
    """Read the file of an agent. Exits with a message when it is damaged."""
    try:
        agent: dict[str, Any] = plistlib.loads(path.read_bytes())
        read_data_dir(agent)
        read_url(agent)
    except (OSError, ValueError, LookupError, TypeError, ExpatError):
        sys.exit(f"spindll: {path} is damaged: run macos/spindll install again")
    return agent


def read_data_dir(agent: Mapping[str, Any]) -> str:
    """The data directory of an agent."""
    return str(agent["EnvironmentVariables"]["SPINDLL_DATA_DIR"])


def read_url(agent: Mapping[str, Any]) -> str:
    """The address of the api of an agent, for this computer."""
    options = dict(pairwise(agent["ProgramArguments"]))
    host = options.get("--host", "127.0.0.1")
    if host in ("0.0.0.0", "", "::"):  # noqa: S104  compared, not listened on
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{options.get('--port', '8080')}"


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    """The value with the names in all of its strings replaced."""
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, values) for item in value]
    if isinstance(value, str):
        return re.sub("|".join(values), lambda match: values[match[0]], value)
    return value


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as problem:
        sys.exit(f"spindll: {problem.filename}: {problem.strerror}")
