"""Bring a stack up: what must hold before, then the supervisor, in this process or a detached one.

1 one stack a data directory: take its lock, or say where the running one is
2 sweep up what a stack that was killed left
3 look whether ports, disk and Redis are there: what is missing is cheaper to say now
4 guard, supervisor
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from services.cli.errors import Problem
from services.cli.options import Options, to_json
from services.cli.paths import Places
from services.cli.supervise import logfiles, state_file
from services.cli.supervise.ports import require_free, require_space
from services.cli.supervise.probes import HttpOk
from services.cli.supervise.processes import Guard
from services.cli.supervise.reporting import Reporter, reports_from, show
from services.cli.supervise.sessions import end_strays
from services.cli.supervise.stack import ROOT, STACK_VARIABLE, Service, services_of
from services.cli.supervise.state_file import reachable
from services.cli.supervise.supervisor import Supervisor

GUARD_SECONDS = 10.0  # how long the guard of a stack that was killed may need


Plan = Callable[[Options, Places, Mapping[str, str]], Sequence[Service]]


def run_stack(options: Options, reporter: Reporter, *, plan: Plan = services_of) -> None:
    """Run it until it is stopped. Problem when it cannot start."""
    places = Places(options.data_dir)
    lock = _prepare(places)
    try:
        _sweep(places, options)
        require_space(options.data_dir)
        require_free(options.host, options.port, "--port")
        require_free(options.host, options.grpc_port, "--grpc-port")
        services = plan(options, places, _inherited(os.environ))
        files = [places.state, *(socket for s in services for socket in s.sockets)]
        supervisor = Supervisor(
            places,
            options,
            services,
            chat=HttpOk(reachable(options.host), options.port, "/ready"),
            reporter=reporter,
            guard=(guard := Guard(lock, files)),
        )
        try:
            asyncio.run(supervisor.run())
        finally:
            guard.dismiss()
            _remove_short_place(places)
    finally:
        os.close(lock)
    if supervisor.problem is not None:
        raise supervisor.problem


def run_detached(options: Options) -> None:
    """Start it in a session of its own and return when it is ready. Problem when it cannot."""
    places = Places(options.data_dir)
    os.close(_prepare(places))  # says at once what is wrong, while the person watches
    receiving, sending = os.pipe()
    log = logfiles.open_log(places.log_of("supervisor"))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "services.cli.supervise", str(sending)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=(sending,),
        start_new_session=True,
    )
    os.close(sending)
    os.close(log)
    assert process.stdin is not None
    with process.stdin:
        process.stdin.write(to_json(options))
    try:
        _follow(receiving, places)
    except KeyboardInterrupt:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()
        raise
    except Problem:
        process.wait()  # it stops what it had started
        raise
    process.returncode = 0  # it is nobody's child any more; do not warn that it runs on


def _follow(descriptor: int, places: Places) -> None:
    for report in reports_from(descriptor):
        show(report)
        if report.kind == "failed":
            raise Problem(report.text, details=report.details)
        if report.kind == "ready":
            return
    log = places.log_of("supervisor")
    lines = logfiles.last_lines(log, 10)
    raise Problem("the supervisor ended before the stack was ready", details="\n".join(lines))


def _prepare(places: Places) -> int:
    """The lock's descriptor. Problem when a stack runs, or the folder cannot be used."""
    try:
        places.make()
        lock = state_file.take_lock(places)
        if lock is None and not _supervisor_lives(places):
            state_file.wait_until_gone(places, GUARD_SECONDS)
            lock = state_file.take_lock(places)
    except OSError as error:
        raise Problem(_unusable(places, error)) from error
    if lock is None:
        state = state_file.read(places)
        where = f" at {state.url}" if state else ""
        raise Problem(f"already running{where} (data: {places.data_dir}); `down` stops it")
    return lock


def _supervisor_lives(places: Places) -> bool:
    state = state_file.read(places)
    return state is None or state_file.is_alive(state.pid)


def _unusable(places: Places, error: OSError) -> str:
    if error.errno == 28:
        return f"the disk of {places.data_dir} is full: free some space, or use --data"
    return f"cannot use {error.filename or places.data_dir}: {error.strerror}; use --data"


def _sweep(places: Places, options: Options) -> None:
    if not places.state.exists():
        return
    end_strays({STACK_VARIABLE: str(options.data_dir)})
    state_file.free_of_stale_files(places, (places.redis_socket, places.engine_socket))


def _inherited(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The person's environment; an empty setting is one that is not there."""
    return {
        name: value
        for name, value in environment.items()
        if value or not name.startswith("SPINDLL_")
    }


def _remove_short_place(places: Places) -> None:
    if places.sockets_dir != places.run_dir:
        shutil.rmtree(places.sockets_dir, ignore_errors=True)
