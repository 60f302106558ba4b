"""Measure ours and the peers side by side and write the results: `make bench`.

    python -m bench.run                         everything, on a synthetic model
    python -m bench.run throughput stall        these scenarios
    python -m bench.run --quick wire            a look whether it works, not a measurement
    python -m bench.run --model some.gguf       on a real model
    python -m bench.run --set SPINDLL_X=Y       with a setting of ours

SPINDLL_BENCH_LLAMA_SERVER names llama-server, or a tarball with it; peers that are not here are
skipped by name. Needs a quiet machine: an hour and a half on two cores, alone.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import httpx

from bench import machine
from bench.peers import find_peers
from bench.report import markdown, write_plots
from bench.results import Results, write_raw
from bench.scenarios import fairness, one_off, prefix, scaling, stall, swap, throughput, wire_only
from bench.scenarios.plan import Plan

SCENARIOS = {
    module.NAME: module.run
    for module in (throughput, stall, fairness, prefix, one_off, wire_only, scaling, swap)
}
_HERE = Path(__file__).resolve().parent


def main() -> None:
    arguments = _parser().parse_args()
    unknown = sorted(set(arguments.scenarios) - set(SCENARIOS))
    if unknown:
        raise SystemExit(
            f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}"
        )
    # A polite kill ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = Results()
    about = machine.describe(["python", "-m", "bench.run", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="spindll-bench-") as directory:
        plan = _plan(arguments, Path(directory))
        about["model"] = plan.model.name
        for reason in plan.peers.skipped:
            results.note(f"- skipped {reason}")
        try:
            failed = [
                name for name in arguments.scenarios or SCENARIOS if not _ran(name, plan, results)
            ]
        finally:
            # Hours of numbers are kept even when the run is ended early.
            _write(results, about, arguments.out)
    if failed:
        raise SystemExit(f"not to the end: {', '.join(failed)}")


def _ran(name: str, plan: Plan, results: Results) -> bool:
    """Whether the scenario ran to its end. One that fails, perhaps for a peer, costs no other."""
    try:
        SCENARIOS[name](plan, results)
    except (RuntimeError, OSError, httpx.HTTPError, ExceptionGroup) as error:
        traceback.print_exc()
        results.note(f"- {name} stopped early: {error}")
        return False
    return True


def _plan(arguments: argparse.Namespace, workdir: Path) -> Plan:
    model, second = arguments.model, arguments.second_model
    if model is None:
        model = _synthetic(arguments.preset, arguments.quant, seed=0)
        second = _synthetic(arguments.preset, arguments.quant, seed=1)
    return Plan(
        model=model,
        second_model=second,
        peers=find_peers(workdir, os.environ),
        workdir=workdir,
        rounds=1 if arguments.quick else arguments.rounds,
        is_quick=arguments.quick,
        threads=arguments.threads,
        gpu_layers=arguments.gpu_layers,
        clients=tuple(arguments.clients),
        answer_tokens=arguments.answer_tokens,
        settings=dict(arguments.set),
    )


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.startswith("SPINDLL_")):
        raise argparse.ArgumentTypeError(f"not SPINDLL_NAME=VALUE: {text}")
    return name, value


def _synthetic(preset: str, quant: str, *, seed: int) -> Path:
    """A model with the real shape and random weights, made once."""
    from tests.models.synthetic import make

    path = _HERE / "models" / f"{preset}-{quant}-{seed}.gguf"
    if not path.exists():
        print(f"making {path.name}", flush=True)
        make(preset, path, quant=quant, seed=seed)
    return path


def _write(results: Results, about: dict[str, object], folder: Path) -> None:
    if not results.measurements:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y%m%d-%H%M%S")
    write_raw(results.measurements, about, folder / f"{stem}.csv")
    plots = write_plots(results, folder, stem)
    report = folder / f"{stem}.md"
    report.write_text(markdown(results, about, plots=plots))
    print(f"written: {report}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", help=f"of {', '.join(SCENARIOS)}; default all")
    parser.add_argument("--model", type=Path, help="a GGUF; default: a synthetic one")
    parser.add_argument("--second-model", type=Path, help="another of its size, for `swap`")
    parser.add_argument("--preset", default="qwen2.5-0.5b", help="shape of the synthetic model")
    parser.add_argument("--quant", default="Q8_0", help="of the synthetic model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--gpu-layers", type=int, default=0, help="on all servers; -1: all")
    parser.add_argument(
        "--set",
        type=_setting,
        action="append",
        default=[],
        metavar="SPINDLL_NAME=VALUE",
        help="a setting of ours, not of the peers; may be repeated",
    )
    parser.add_argument(
        "--clients",
        type=int,
        nargs="+",
        default=(),
        choices=list(throughput.REQUESTS),
        help="only so many, in `throughput`; default all of these",
    )
    parser.add_argument(
        "--answer-tokens", type=int, default=64, metavar="N", help="of each answer in `throughput`"
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out", type=Path, default=_HERE / "results")
    return parser


if __name__ == "__main__":
    main()
