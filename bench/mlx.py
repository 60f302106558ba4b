"""Measure an MLX folder in Spindll, mlx_lm.server and mlx_lm.generate, side by side.

    python -m bench.mlx [--model FOLDER] [--clients 1 4 8] [--rounds 3] [--quick]

`throughput`      tokens per second of answers to distinct prompts, with their prompts
                  (`tokens_per_second`), and of one answer behind its first token
                  (`generated_per_second`), as mlx_lm.generate counts
`shared prefix`   first token of a long prompt, and of eight at once that begin like it
`after a restart` first token of another one that begins like it, with the servers started anew

mlx_lm.generate takes one prompt and has no server around it. Without --model it is the tiny trained
model of the tests. The folder is copied with an end token that no answer has, because mlx-lm cannot
ignore it. On a processor, set MLX_DISABLE_COMPILE=1: no server then waits for a compiler.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

from bench import machine
from bench.answer import StreamedAnswer
from bench.load import percentile, run_closed_loop, summarise
from bench.prompts import LoadRequest, build_distinct, build_shared_prefix, build_text
from bench.report import render_markdown
from bench.results import Results, write_csv
from bench.scenarios.plan import MODEL, raise_on_error, rotate, warm_up
from bench.servers.start import RunningServer, ServerOptions, start_mlx_lm, start_spindll

_HERE = Path(__file__).resolve().parent
_TINY = _HERE.parent / "tests" / "models" / "tiny" / "mlx-f16"
_REQUESTS = 3  # per client
_PREFIX_CLIENTS = 8
_GENERATE_TIMEOUT_SECONDS = 600
_SPEED = re.compile(r"Generation: (\d+) tokens, ([\d.]+) tokens-per-sec")


def copy_without_end(folder: Path, copy: Path) -> Path:
    """Copy an MLX folder; its only end token is one that the model does not generate."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("generation_config.json"))
    config = json.loads((copy / "config.json").read_text())
    config["eos_token_id"] = config["vocab_size"] - 1
    (copy / "config.json").write_text(json.dumps(config))
    # Spindll ends an answer at the tokenizer's own end token too.
    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    tokenizer.pop("eos_token", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return copy


@contextmanager
def start_both(
    options: ServerOptions, workdir: Path, *, keeps_data: bool = False
) -> Iterator[list[RunningServer]]:
    """Start Spindll and mlx_lm.server."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(start_spindll(options, workdir, keeps_data=keeps_data)),
            stack.enter_context(start_mlx_lm(options, workdir)),
        ]


def measure_throughput(
    results: Results, server: RunningServer, clients: int, round_number: int, tokens: int
) -> None:
    """Tokens per second with so many clients."""
    seed = 1000 * round_number + 10 * clients + 1
    requests = build_distinct(clients * _REQUESTS, words=24, max_tokens=tokens, seed=seed)
    answers = asyncio.run(run_closed_loop(server.target, requests, clients=clients))
    raise_on_error(answers, server)
    summary = summarise(answers)
    results.add(
        "throughput",
        f"{clients} clients",
        server.name,
        round_number,
        tokens_per_second=summary.tokens_per_second,
        generated_per_second=compute_generation_speed(answers),
        first_token_p50_ms=_to_ms(summary.first_token_p50),
    )


def compute_generation_speed(answers: Iterable[StreamedAnswer]) -> float | None:
    """The median speed of one answer behind its first token; None where no answer has two."""
    speeds = [
        (answer.completion_tokens - 1) / (answer.ended_at - answer.sent_at - first)
        for answer in answers
        if answer.ended_at is not None
        and (first := answer.first_token_seconds) is not None
        and answer.completion_tokens > 1
    ]
    return percentile(speeds, 50)


def measure_first_token(
    results: Results,
    scenario: str,
    case: str,
    server: RunningServer,
    round_number: int,
    requests: Sequence[LoadRequest],
) -> None:
    """The median first token of requests that are sent together."""
    answers = asyncio.run(run_closed_loop(server.target, requests, clients=len(requests)))
    raise_on_error(answers, server)
    summary = summarise(answers)
    results.add(
        scenario,
        case,
        server.name,
        round_number,
        first_token_ms=_to_ms(summary.first_token_p50),
        cached_percent=100 * summary.cached_tokens / max(summary.prompt_tokens, 1),
    )


def measure_generate(results: Results, folder: Path, round_number: int, tokens: int) -> None:
    """Tokens per second of mlx_lm.generate, as it prints them itself: without prompt and load."""
    command = [sys.executable, "-m", "mlx_lm", "generate", "--model", str(folder), "--temp", "0"]
    command += ["--prompt", build_text(24, round_number), "--ignore-chat-template"]
    command += ["--max-tokens", str(tokens)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_GENERATE_TIMEOUT_SECONDS, check=True
    )
    found = _SPEED.search(done.stdout)
    if found is None:
        raise RuntimeError(f"mlx_lm.generate: no speed in its output: {done.stdout[-500:]}")
    speed = float(found[2])
    results.add(
        "throughput", "1 clients", "mlx_lm.generate", round_number, generated_per_second=speed
    )


def run_round(
    results: Results, options: ServerOptions, workdir: Path, number: int, args: argparse.Namespace
) -> None:
    """One round: both servers, and both again after a restart."""
    prefixed = build_shared_prefix(
        _PREFIX_CLIENTS + 2, prefix_words=args.prefix_words, words=8, max_tokens=4, seed=number + 7
    )
    with start_both(options, workdir) as servers:
        for server in servers:
            warm_up(server)
        for clients in args.clients:
            for server in rotate(servers, number):
                measure_throughput(results, server, clients, number, args.answer_tokens)
        for server in rotate(servers, number):
            scenario = "shared prefix"
            measure_first_token(results, scenario, "first", server, number, prefixed[:1])
            measure_first_token(results, scenario, "eight at once", server, number, prefixed[1:-1])
    with start_both(options, workdir, keeps_data=True) as servers:
        for server in servers:
            warm_up(server)
        for server in rotate(servers, number):
            scenario = "after a restart"
            measure_first_token(results, scenario, "same prefix", server, number, prefixed[-1:])
    measure_generate(results, options.models[MODEL], number, args.answer_tokens)


def main() -> None:
    """Run the rounds, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=_TINY, help="an MLX folder")
    parser.add_argument("--clients", type=int, nargs="+", default=(1, 4, 8))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answer-tokens", type=int, default=64)
    parser.add_argument("--prefix-words", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="does it work? Not a measurement")
    parser.add_argument("--out", type=Path, default=_HERE / "results")
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.clients, args.answer_tokens = 1, (1,), 8
    results = Results()
    metadata = machine.describe_run(["python", "-m", "bench.mlx", *sys.argv[1:]])
    metadata["model"] = args.model.name
    metadata["mlx-lm"] = version("mlx-lm")
    with tempfile.TemporaryDirectory(prefix="spindll-bench-") as directory:
        folder = copy_without_end(args.model, Path(directory) / "model")
        options = ServerOptions(
            models={MODEL: folder},
            context_tokens=2048,
            sequences=8,
            settings={"SPINDLL_KV_MODE": "split"},  # so much for each sequence, as mlx-lm has it
        )
        for number in range(args.rounds):
            run_round(results, options, Path(directory), number, args)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = time.strftime("%Y%m%d-%H%M%S-mlx")
    write_csv(results.measurements, metadata, args.out / f"{stem}.csv")
    (args.out / f"{stem}.md").write_text(render_markdown(results, metadata, plots={}))
    print(f"wrote {args.out / stem}.md", flush=True)


def _to_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


if __name__ == "__main__":
    main()
