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

from services.cli.errors import CommandError
from services.cli.options import StackOptions, to_json
from services.cli.paths import StackPaths
from services.cli.supervise import logfiles, state_file
from services.cli.supervise.preflight import require_disk_space, require_free_port
from services.cli.supervise.probes import HttpOk
from services.cli.supervise.process_sessions import kill_processes_with_environment
from services.cli.supervise.processes import Guard
from services.cli.supervise.reporting import Reporter, read_reports, show
from services.cli.supervise.stack import ROOT, STACK_VARIABLE, ServiceSpec, build_services
from services.cli.supervise.state_file import connect_host
from services.cli.supervise.supervisor import Supervisor

GUARD_SECONDS = 10.0  # how long the guard of a stack that was killed may need


Plan = Callable[[StackOptions, StackPaths, Mapping[str, str]], Sequence[ServiceSpec]]


def run_stack(options: StackOptions, reporter: Reporter, *, plan: Plan = build_services) -> None:
    """Run it until it is stopped. Problem when it cannot start."""
    paths = StackPaths(options.data_dir)
    lock = _prepare(paths)
    try:
        _sweep(paths, options)
        require_disk_space(options.data_dir)
        require_free_port(options.host, options.port, "--port")
        require_free_port(options.host, options.grpc_port, "--grpc-port")
        services = plan(options, paths, _inherited(os.environ))
        files = [paths.state, *(socket for s in services for socket in s.sockets)]
        supervisor = Supervisor(
            paths,
            options,
            services,
            chat=HttpOk(connect_host(options.host), options.port, "/ready"),
            reporter=reporter,
            guard=(guard := Guard(lock, files)),
        )
        try:
            asyncio.run(supervisor.run())
        finally:
            guard.dismiss()
            _remove_short_place(paths)
    finally:
        os.close(lock)
    if supervisor.error is not None:
        raise supervisor.error


def run_detached(options: StackOptions) -> None:
    """Start it in a session of its own and return when it is ready. Problem when it cannot."""
    paths = StackPaths(options.data_dir)
    os.close(_prepare(paths))  # says at once what is wrong, while the person watches
    receiving, sending = os.pipe()
    log = logfiles.open_log(paths.log_path("supervisor"))
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
        _follow(receiving, paths)
    except KeyboardInterrupt:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()
        raise
    except CommandError:
        process.wait()  # it stops what it had started
        raise
    process.returncode = 0  # it is nobody's child any more; do not warn that it runs on


def _follow(descriptor: int, paths: StackPaths) -> None:
    for report in read_reports(descriptor):
        show(report)
        if report.kind == "failed":
            raise CommandError(report.text, details=report.details)
        if report.kind == "ready":
            return
    log = paths.log_path("supervisor")
    lines = logfiles.last_lines(log, 10)
    raise CommandError("the supervisor ended before the stack was ready", details="\n".join(lines))


def _prepare(paths: StackPaths) -> int:
    """The lock's descriptor. Problem when a stack runs, or the folder cannot be used."""
    try:
        paths.make()
        lock = state_file.take_lock(paths)
        if lock is None and not _supervisor_lives(paths):
            state_file.wait_until_gone(paths, GUARD_SECONDS)
            lock = state_file.take_lock(paths)
    except OSError as error:
        raise CommandError(_unusable(paths, error)) from error
    if lock is None:
        state = state_file.read(paths)
        where = f" at {state.url}" if state else ""
        raise CommandError(f"already running{where} (data: {paths.data_dir}); `down` stops it")
    return lock


def _supervisor_lives(paths: StackPaths) -> bool:
    state = state_file.read(paths)
    return state is None or state_file.is_alive(state.pid)


def _unusable(paths: StackPaths, error: OSError) -> str:
    if error.errno == 28:
        return f"the disk of {paths.data_dir} is full: free some space, or use --data"
    return f"cannot use {error.filename or paths.data_dir}: {error.strerror}; use --data"


def _sweep(paths: StackPaths, options: StackOptions) -> None:
    if not paths.state.exists():
        return
    kill_processes_with_environment({STACK_VARIABLE: str(options.data_dir)})
    state_file.remove_stale_files(paths, (paths.redis_socket, paths.engine_socket))


def _inherited(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The person's environment; an empty setting is one that is not there."""
    return {
        name: value
        for name, value in environment.items()
        if value or not name.startswith("SPINDLL_")
    }


def _remove_short_place(paths: StackPaths) -> None:
    if paths.sockets_dir != paths.run_dir:
        shutil.rmtree(paths.sockets_dir, ignore_errors=True)
