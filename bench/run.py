"""Measure Spindll and its peers side by side and write the results: `make bench`.

    python -m bench.run                         all scenarios, with a synthetic model
    python -m bench.run throughput stall        only these scenarios
    python -m bench.run --quick wire            a short check that it works, not a measurement
    python -m bench.run --model some.gguf       with a real model
    python -m bench.run --set SPINDLL_X=Y       with a setting of Spindll

SPINDLL_BENCH_LLAMA_SERVER names llama-server, or a tarball that contains it. Peers that are not
installed are skipped and named in the report. A full run takes an hour and a half on two cores and
needs a machine without other load.
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
from bench.model_files import ensure_synthetic_model
from bench.report import render_markdown, write_plots
from bench.results import Results, write_csv
from bench.scenarios import (
    drafting,
    fairness,
    one_off,
    prefix,
    scaling,
    stall,
    swap,
    throughput,
    wire_only,
)
from bench.scenarios.plan import Plan
from bench.servers.peers import find_peers

SCENARIOS = {
    module.NAME: module.run
    for module in (throughput, stall, fairness, prefix, one_off, drafting, wire_only, scaling, swap)
}
_HERE = Path(__file__).resolve().parent


def main() -> None:
    arguments = _build_parser().parse_args()
    unknown = sorted(set(arguments.scenarios) - set(SCENARIOS))
    if unknown:
        raise SystemExit(
            f"no such scenario: {', '.join(unknown)}; there are {', '.join(SCENARIOS)}"
        )
    # SIGTERM stops the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    results = Results()
    metadata = machine.describe_run(["python", "-m", "bench.run", *sys.argv[1:]])
    with tempfile.TemporaryDirectory(prefix="spindll-bench-") as directory:
        plan = _build_plan(arguments, Path(directory))
        metadata["model"] = plan.model.name
        for reason in plan.peers.skipped:
            results.add_note(f"- skipped {reason}")
        try:
            names = arguments.scenarios or SCENARIOS
            failed = [name for name in names if not _run_scenario(name, plan, results)]
        finally:
            # Write the results of hours even when the run is stopped early.
            _write_results(results, metadata, arguments.out)
    if failed:
        raise SystemExit(f"stopped early: {', '.join(failed)}")


def _run_scenario(name: str, plan: Plan, results: Results) -> bool:
    """Run a scenario; returns whether it completed. A failure does not stop the other scenarios."""
    try:
        SCENARIOS[name](plan, results)
    except (RuntimeError, OSError, httpx.HTTPError, ExceptionGroup) as error:
        traceback.print_exc()
        results.add_note(f"- {name} stopped early: {error}")
        return False
    return True


def _build_plan(arguments: argparse.Namespace, workdir: Path) -> Plan:
    model, second = arguments.model, arguments.second_model
    if model is None:
        model = ensure_synthetic_model(arguments.preset, arguments.quant, seed=0)
        second = ensure_synthetic_model(arguments.preset, arguments.quant, seed=1)
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
        prompt_words=arguments.prompt_words,
        answer_tokens=arguments.answer_tokens,
        varies_answers=arguments.vary_answers,
        settings=dict(arguments.set),
    )


def _parse_setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name.startswith("SPINDLL_")):
        raise argparse.ArgumentTypeError(f"not SPINDLL_NAME=VALUE: {text}")
    return name, value


def _write_results(results: Results, metadata: dict[str, object], folder: Path) -> None:
    if not results.measurements:
        return
    folder.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y%m%d-%H%M%S")
    write_csv(results.measurements, metadata, folder / f"{stem}.csv")
    plots = write_plots(results, folder, stem)
    report = folder / f"{stem}.md"
    report.write_text(render_markdown(results, metadata, plots=plots))
    print(f"wrote {report}", flush=True)


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenarios", nargs="*", help=f"any of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--out", type=Path, default=_HERE / "results")
    _add_model_arguments(parser)
    _add_server_arguments(parser)
    _add_throughput_arguments(parser)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="a GGUF file; default: a synthetic model")
    parser.add_argument("--second-model", type=Path, help="another model of its size, for `swap`")
    parser.add_argument(
        "--preset", default="qwen2.5-0.5b", help="dimensions of the synthetic model"
    )
    parser.add_argument("--quant", default="Q8_0", help="quantisation of the synthetic model")


def _add_server_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument(
        "--gpu-layers", type=int, default=0, help="layers on the GPU, for all servers; -1: all"
    )
    parser.add_argument(
        "--set",
        type=_parse_setting,
        action="append",
        default=[],
        metavar="SPINDLL_NAME=VALUE",
        help="a setting of Spindll, not of the peers; may be repeated",
    )


def _add_throughput_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--clients",
        type=int,
        nargs="+",
        default=(),
        choices=list(throughput.REQUESTS),
        help="client counts of `throughput`; default: all of these",
    )
    parser.add_argument(
        "--prompt-words",
        type=int,
        default=24,
        metavar="N",
        help="length of each prompt of `throughput`",
    )
    parser.add_argument(
        "--answer-tokens",
        type=int,
        default=64,
        metavar="N",
        help="length of each answer of `throughput`",
    )
    parser.add_argument(
        "--vary-answers",
        action="store_true",
        help="answers of half to one and a half times that length, so that they end one by one",
    )


if __name__ == "__main__":
    main()
