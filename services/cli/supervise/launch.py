"""Start a stack: check the preconditions, then run the supervisor, here or in the background.

1 take the lock of the data directory, which allows one stack; or name the one that runs
2 clean up after a stack that was killed
3 check ports, disk and Redis, since an early error is clearer than a service that fails
4 start the guard, run the supervisor
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from services.cli.errors import CommandError
from services.cli.options import StackOptions, to_json
from services.cli.paths import StackPaths
from services.cli.supervise import logfiles, redis_server, state_file
from services.cli.supervise.checks.preflight import require_disk_space, require_free_port
from services.cli.supervise.checks.probes import HttpOk
from services.cli.supervise.process_sessions import kill_processes_with_environment
from services.cli.supervise.processes import Guard
from services.cli.supervise.reporting import Reporter, print_report, read_reports
from services.cli.supervise.stack import ROOT, STACK_VARIABLE, ServiceSpec, build_services
from services.cli.supervise.state_file import connect_host
from services.cli.supervise.supervisor import StackSupervisor

GUARD_SECONDS = 10.0  # the time that the guard of a killed stack gets to clean up
LOG_LINES_SHOWN = 10


BuildServices = Callable[[StackOptions, StackPaths, Mapping[str, str]], Sequence[ServiceSpec]]


def run_stack(
    options: StackOptions, reporter: Reporter, *, build: BuildServices = build_services
) -> None:
    """Run a stack until it is stopped. Raises CommandError when it cannot start."""
    paths = StackPaths(options.data_dir)
    lock = _lock_data_dir(paths)
    try:
        _clean_up_killed_stack(paths, options)
        require_disk_space(options.data_dir)
        require_free_port(options.host, options.port, "--port")
        require_free_port(options.host, options.grpc_port, "--grpc-port")
        redis_server.create_users(paths)
        services = build(options, paths, _without_empty_settings(os.environ))
        files = [paths.state_file, *(socket for s in services for socket in s.sockets)]
        supervisor = StackSupervisor(
            paths,
            options,
            services,
            ready_probe=HttpOk(connect_host(options.host), options.port, "/ready"),
            reporter=reporter,
            guard=(guard := Guard(lock, files)),
        )
        try:
            asyncio.run(supervisor.run())
        finally:
            guard.dismiss()
            _remove_short_sockets_dir(paths)
    finally:
        os.close(lock)
    if supervisor.error is not None:
        raise supervisor.error


def run_detached(options: StackOptions) -> None:
    """Start a stack in a session of its own and return when it is ready.

    Raises CommandError when it cannot start.
    """
    paths = StackPaths(options.data_dir)
    os.close(_lock_data_dir(paths))  # fails here, in the foreground, if the folder cannot be used
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
        _relay_reports(receiving, paths)
    except KeyboardInterrupt:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()
        raise
    except CommandError:
        process.wait()  # the supervisor stops what it has started
        raise
    process.returncode = 0  # it continues to run by design; suppress Popen's ResourceWarning


def _relay_reports(descriptor: int, paths: StackPaths) -> None:
    for report in read_reports(descriptor):
        print_report(report)
        if report.kind == "failed":
            raise CommandError(report.text, details=report.details)
        if report.kind == "ready":
            return
    log = paths.log_path("supervisor")
    lines = logfiles.last_lines(log, LOG_LINES_SHOWN)
    raise CommandError("the supervisor ended before the stack was ready", details="\n".join(lines))


def _lock_data_dir(paths: StackPaths) -> int:
    """Lock the data directory; the descriptor of the lock.

    Raises CommandError when a stack is running or the folder cannot be used.
    """
    try:
        paths.make_dirs()
        lock = _take_lock(paths)
    except OSError as error:
        raise CommandError(_describe_os_error(paths, error)) from error
    if lock is None:
        state = state_file.read(paths)
        where = f" at {state.url}" if state else ""
        raise CommandError(f"already running{where} (data: {paths.data_dir}); `down` stops it")
    return lock


def _take_lock(paths: StackPaths) -> int | None:
    """The lock, or None when a stack is running.

    Waits for the guard of a killed stack, which has the lock for a moment after the state is gone.
    """
    deadline = time.monotonic() + GUARD_SECONDS
    while (lock := state_file.take_lock(paths)) is None and time.monotonic() < deadline:
        state = state_file.read(paths)
        if state is not None and state_file.is_alive(state.pid):
            return None
        time.sleep(state_file.POLL_SECONDS)
    return lock


def _describe_os_error(paths: StackPaths, error: OSError) -> str:
    if error.errno == 28:
        return (
            f"the disk of {paths.data_dir} is full:"
            " free some space, or choose another folder with --data"
        )
    path = error.filename or paths.data_dir
    return f"cannot use {path}: {error.strerror}; choose another folder with --data"


def _clean_up_killed_stack(paths: StackPaths, options: StackOptions) -> None:
    if not paths.state_file.exists():
        return
    kill_processes_with_environment({STACK_VARIABLE: str(options.data_dir)})
    state_file.remove_stale_files(paths, (paths.redis_socket, paths.engine_socket))


def _without_empty_settings(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The environment without empty SPINDLL_ variables, which count as not set."""
    return {
        name: value
        for name, value in environment.items()
        if value or not name.startswith("SPINDLL_")
    }


def _remove_short_sockets_dir(paths: StackPaths) -> None:
    if paths.sockets_dir != paths.run_dir:
        shutil.rmtree(paths.sockets_dir, ignore_errors=True)
