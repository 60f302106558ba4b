"""A supervisor of scripted services, as a process of its own: `python scripted_stack.py JSON`.

It prints its reports as JSON lines, as the detached supervisor does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.cli.errors import CommandError
from services.cli.options import StackOptions, from_json
from services.cli.paths import StackPaths
from services.cli.supervise.checks.probes import (
    AcceptsConnections,
    HttpOk,
    ReadinessProbe,
    StaysAlive,
)
from services.cli.supervise.launch import run_stack
from services.cli.supervise.reporting import PipeReporter, failure_report
from services.cli.supervise.stack import STACK_VARIABLE, ServiceSpec
from services.cli.supervise.state_machine import ServicePolicy

SCRIPT = Path(__file__).with_name("scripted_service.py")


def main(config: dict[str, object]) -> int:
    options = from_json(json.dumps(config["options"]).encode())
    scripts = config["services"]
    assert isinstance(scripts, list)

    def build(
        options: StackOptions, paths: StackPaths, inherited: Mapping[str, str]
    ) -> Sequence[ServiceSpec]:
        return [service(script, options, paths, inherited) for script in scripts]

    reporter = PipeReporter(sys.stdout.fileno())
    try:
        run_stack(options, reporter, build=build)
    except CommandError as error:
        reporter.report(failure_report(error))
        return 1
    return 0


def service(
    script: dict[str, object],
    options: StackOptions,
    paths: StackPaths,
    inherited: Mapping[str, str],
) -> ServiceSpec:
    name = str(script["name"])
    probe: ReadinessProbe = StaysAlive()
    sockets: tuple[Path, ...] = ()
    if script.pop("listens", False):
        sockets = (paths.sockets_dir / f"{name}.sock",)
        script["socket"] = str(sockets[0])
        probe = AcceptsConnections(sockets[0])
    if "port" in script:
        probe = HttpOk("127.0.0.1", int(str(script["port"])), "/health")
    needs = script.pop("needs", [])
    assert isinstance(needs, list)
    return ServiceSpec(
        policy=ServicePolicy(
            name, needs=tuple(needs), drain_seconds=float(str(script.pop("drain", 5)))
        ),
        command=(sys.executable, str(SCRIPT), json.dumps(script)),
        log=paths.log_path(name),
        probe=probe,
        environment={**inherited, STACK_VARIABLE: str(options.data_dir)},
        sockets=sockets,
    )


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
