"""Measure a GPU: `python -m bench.gpu`, again and again until it says that nothing is left.

python -m bench.gpu                     build what is missing, then measure; at most 9 minutes
python -m bench.gpu --out FOLDER        results there; a run is continued from there or from
                                        bench/results
python -m bench.gpu --only steps pace   some items only
python -m bench.gpu --where kv_mode=split model=llama3.1-8b:Q4_K_M
                                        of items whose cases have these fields, those cases only
python -m bench.gpu --build             the build alone; also without a GPU, with --architecture
python -m bench.gpu --dry               all items on the CPU with a tiny model: does it work?
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.gpu import cuda_build, needs

_REPORT_SECONDS = 10.0
_RESULTS = needs.ROOT / "bench" / "results"
_DEADLINE = "SPINDLL_BENCH_GPU_DEADLINE"


def main() -> None:
    arguments = _build_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # The clock of a call that is continued in the prepared environment goes on.
    started = os.environ.get(_DEADLINE)
    deadline = float(started or time.time() + 60 * arguments.minutes - _REPORT_SECONDS)
    if not (arguments.dry or started):
        _prepare(arguments, deadline)
    sys.exit(_measure(arguments, deadline))


def _prepare(arguments: argparse.Namespace, deadline: float) -> None:
    """Build, then continue this call with the interpreter of the prepared environment."""
    print(f"device: {_describe_device()}", flush=True)
    missing = needs.find_toolchain().list_missing()
    if missing:
        print(f"missing for a build: {', '.join(missing)}", flush=True)
    architecture = arguments.architecture or _find_architecture()
    if architecture is None:
        raise SystemExit("no GPU answers; --architecture 90 builds for one, --dry needs none")
    try:
        prepared = cuda_build.prepare(architecture, deadline)
    except cuda_build.NotReady as error:
        raise SystemExit(f"not ready: {error}") from error
    if arguments.build:
        print(f"ready: {prepared.python}", flush=True)
        raise SystemExit(0)
    environment = {**os.environ, **prepared.environment, _DEADLINE: str(deadline)}
    command = [str(prepared.python), "-m", "bench.gpu", *sys.argv[1:]]
    os.chdir(needs.ROOT)
    os.execve(command[0], command, environment)


def _measure(arguments: argparse.Namespace, deadline: float) -> int:
    """Run what is left; returns 0 when nothing is."""
    missing = needs.list_missing_modules(needs.RAW_MODULES)
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)}; put their wheels into wheels/")
    # These need the packages of the environment.
    from bench import machine
    from bench.gpu.call import run_units
    from bench.gpu.results_file import open_progress
    from bench.gpu.scale import DRY, GPU
    from bench.gpu.units import ITEMS, list_units, select_units

    scale = DRY if arguments.dry else GPU
    unknown = sorted(set(arguments.only) - set(ITEMS))
    if unknown:
        raise SystemExit(f"no such item: {', '.join(unknown)}; there are {', '.join(ITEMS)}")
    metadata: dict[str, Any] = machine.describe_run(["python", "-m", "bench.gpu", *sys.argv[1:]])
    metadata |= {"device": "CPU" if arguments.dry else _describe_device(), "is_dry": arguments.dry}
    progress = open_progress(arguments.out, _RESULTS, metadata, is_fresh=arguments.fresh)
    items = [item for item in ITEMS if item in (arguments.only or ITEMS)]
    try:
        units = select_units(list_units(items, scale), arguments.where)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    try:
        left = run_units(units, progress, deadline=deadline, is_dry=arguments.dry)
    finally:
        progress.save()
        report = progress.render()
        progress.path.with_suffix(".md").write_text(report)
        print(report, flush=True)
    print(f"wrote {progress.path}", flush=True)
    if left:
        print(f"{len(left)} left, the next is {left[0]}: run it again to continue", flush=True)
    return 1 if left else 0


def _describe_device() -> str:
    return _ask_driver("name") or "no GPU"


def _find_architecture() -> str | None:
    """The compute capability of the first GPU, as CMake writes it."""
    found = _ask_driver("compute_cap")
    return found.replace(".", "") if found else None


def _ask_driver(field: str) -> str | None:
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if lines else None


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call; default: 9")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder of the results")
    parser.add_argument("--only", nargs="+", default=[], metavar="ITEM")
    parser.add_argument("--where", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--fresh", action="store_true", help="begin anew, with a new file")
    parser.add_argument("--build", action="store_true", help="build, and do not measure")
    parser.add_argument("--architecture", help="compute capability to build for, such as 90")
    parser.add_argument("--dry", action="store_true", help="on the CPU, with a tiny model")
    return parser


if __name__ == "__main__":
    main()
