"""A supervisor over scripted services, as a process of its own: `python scripted_stack.py JSON`.

Prints its reports as JSON lines, as the detached supervisor does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.cli.errors import Problem
from services.cli.options import Options, from_json
from services.cli.paths import Places
from services.cli.supervise.launch import run_stack
from services.cli.supervise.probes import Accepts, HttpOk, Lasts, Probe
from services.cli.supervise.reporting import ToPipe, failed
from services.cli.supervise.stack import STACK_VARIABLE, Service
from services.cli.supervise.state_machine import Policy

SCRIPT = Path(__file__).with_name("scripted_service.py")


def main(said: dict[str, object]) -> int:
    options = from_json(json.dumps(said["options"]).encode())
    scripts = said["services"]
    assert isinstance(scripts, list)

    def plan(options: Options, places: Places, inherited: Mapping[str, str]) -> Sequence[Service]:
        return [service(script, options, places, inherited) for script in scripts]

    reporter = ToPipe(sys.stdout.fileno())
    try:
        run_stack(options, reporter, plan=plan)
    except Problem as problem:
        reporter.report(failed(problem))
        return 1
    return 0


def service(
    script: dict[str, object], options: Options, places: Places, inherited: Mapping[str, str]
) -> Service:
    name = str(script["name"])
    probe: Probe = Lasts()
    sockets: tuple[Path, ...] = ()
    if script.pop("listens", False):
        sockets = (places.sockets_dir / f"{name}.sock",)
        script["socket"] = str(sockets[0])
        probe = Accepts(sockets[0])
    if "port" in script:
        probe = HttpOk("127.0.0.1", int(str(script["port"])), "/health")
    needs = script.pop("needs", [])
    assert isinstance(needs, list)
    return Service(
        policy=Policy(name, needs=tuple(needs), drain_seconds=float(str(script.pop("drain", 5)))),
        command=(sys.executable, str(SCRIPT), json.dumps(script)),
        log=places.log_of(name),
        probe=probe,
        environment={**inherited, STACK_VARIABLE: str(options.data_dir)},
        sockets=sockets,
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
