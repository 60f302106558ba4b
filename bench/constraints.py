"""Measure what constraints cost: before the first token of an answer, and at each token.

    python -m bench.constraints [--model some.gguf] [--sequences 8] [--tokens 40] [--rounds 3]

Times are those of the CPU, so that a shared machine disturbs them little: of the whole process for
what happens before the first token, of the loop's thread for steps and tokens. The median is shown.
A token that the schema permits is only checked (`agrees`); another one costs a mask (`rejected`).
The bars (issue 17): 50 ms before the first token for a schema of 10 KB, 5 % of a step of 8 answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.model_files import ensure_synthetic_model
from services.engine.core import Constraint, LoadConfig, Sampling, Stopping, TextPiece
from services.engine.messages.commands import Submit
from services.engine.runner.batcher import Batcher
from services.engine.runner.build import build_input_processor, open_batcher
from services.engine.runner.requests.input_processor import InputProcessor, PreparedRequest
from services.engine.runner.sampling.sampler import Sampler

SCHEMA_CHARS = 10_240
Rows = NDArray[np.float32]
Build = Callable[[str], dict[str, Any]]

# By kind: a property of the schema. Its name makes each schema another one.
KINDS: dict[str, Build] = {
    "strings": lambda name: {"type": "string", "description": f"What {name} is."},
    "bounded strings": lambda _: {"type": "string", "minLength": 1, "maxLength": 100},
    "enums": lambda name: {"enum": [f"{name} {word}" for word in ("red", "green", "blue")]},
    "integer ranges": lambda _: {"type": "integer", "minimum": -100, "maximum": 123_456},
    "formats": lambda _: {"type": "string", "format": "date-time"},
    "objects in arrays": lambda name: {
        "type": "array",
        "items": build_object({"id": {"type": "integer"}, name: {"type": ["string", "null"]}}),
    },
    "alternatives": lambda name: {
        "anyOf": [{"type": "string"}, build_object({name: {"type": "number"}}), {"type": "null"}]
    },
}


def build_object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def build_constraint(kind: str, number: int) -> Constraint:
    """A schema of 10 KB; each number gives another one."""
    properties: dict[str, Any] = {}
    source = ""
    for index in count():
        name = f"{kind.replace(' ', '_')}_{number}_{index}"
        properties[name] = KINDS[kind](name)
        longer = json.dumps(build_object(properties))
        if len(longer) > SCHEMA_CHARS:
            return Constraint("json_schema", source)
        source = longer
    raise AssertionError


class Bench:
    """A loaded model, and requests for it."""

    def __init__(self, model: Path, threads: int) -> None:
        config = LoadConfig(
            model_path=str(model),
            backend="llamacpp",
            context_length=8192,
            max_sequences=64,
            threads=threads,
            speculate=False,
        )
        self.batcher: Batcher = open_batcher(config, lambda _: None)
        self._processor: InputProcessor = build_input_processor(self.batcher)
        self._ids: Iterator[int] = count(1)

    def prepare(self, constraint: Constraint | None, tokens: int) -> PreparedRequest:
        submit = Submit(
            id=next(self._ids),
            pieces=(TextPiece("Give me JSON."),),
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=tokens, ignore_eos=True),
            constraint=constraint,
        )
        return self._processor.prepare(submit, arrived_at=time.monotonic())

    def measure_preparation(self, constraint: Constraint | None) -> float:
        """Milliseconds of CPU before the request is queued."""
        began = time.process_time()
        self.prepare(constraint, 8)
        return (time.process_time() - began) * 1e3

    def measure_step(self, sequences: int, tokens: int) -> float:
        """Milliseconds of CPU of the loop's thread for a step of so many free answers, the median."""
        for _ in range(sequences):
            self.batcher.add(self.prepare(None, tokens).request)
        steps = []
        while not self.batcher.read_state().is_idle:
            began = time.thread_time()
            self.batcher.step(time.monotonic())
            if self.batcher.read_state().running == sequences:
                steps.append(time.thread_time() - began)
        return statistics.median(steps[1:]) * 1e3  # the first one computes the prompts


def measure_picks(bench: Bench, constraint: Constraint, rows: Rows) -> dict[str, float]:
    """Microseconds to choose and accept a token, the median, by what the model wants."""
    size = rows.shape[1]
    times: dict[str, list[int]] = {"free": [], "agrees": [], "rejected": []}
    for agrees in (True, False):
        answer: Any = bench.prepare(constraint, 200).answers[0]
        state = answer._constraint  # noqa: SLF001
        sampler = Sampler(Sampling(temperature=0.0), seed=0, vocab_size=size, prompt=())
        for free, row in zip(rows[::2], rows[1::2], strict=True):
            if state.is_finished:
                break
            best = int(np.flatnonzero(state.copy().mask())[0])
            if agrees:
                row[best] = 30
            began = time.thread_time_ns()
            sampler.pick(free)
            middle = time.thread_time_ns()
            token = sampler.pick(row, constraint=state)
            state.accept(token)
            ended = time.thread_time_ns()
            row[best] = 0
            times["free"].append(middle - began)
            times["agrees" if agrees or token == row.argmax() else "rejected"].append(
                ended - middle
            )
    return {name: statistics.median(found or [0]) / 1e3 for name, found in times.items()}


def print_preparation(bench: Bench, rounds: int) -> None:
    began = time.process_time()
    bench.prepare(Constraint("regex", "a"), 8)
    print(f"the model's first constraint: {time.process_time() - began:.2f} s, once\n")
    plain = statistics.median(bench.measure_preparation(None) for _ in range(rounds))
    print(f"| ms before the first token, without a constraint {plain:.1f} | first time | again |")
    print("|-|-|-|")
    for kind in KINDS:
        first, again = [], []
        for number in range(rounds):
            constraint = build_constraint(kind, number)
            first.append(bench.measure_preparation(constraint) - plain)
            again.append(bench.measure_preparation(constraint) - plain)
        print(f"| {kind} | {statistics.median(first):.1f} | {statistics.median(again):.1f} |")


def print_tokens(bench: Bench, step_ms: float, sequences: int) -> None:
    print(f"\na step of {sequences} free answers: {step_ms:.1f} ms")
    print("\n| µs of a token, greedy | free | agrees | rejected | part of the step, all rejected |")
    print("|-|-|-|-|-|")
    # As many as no cache holds, so that each is read from memory as after a step.
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((128, bench.batcher.info.vocab_size), dtype=np.float32)
    for kind in KINDS:
        found = measure_picks(bench, build_constraint(kind, 0), rows)
        share = sequences * (found["rejected"] - found["free"]) / (step_ms * 1e3)
        cells = " | ".join(f"{time:.0f}" for time in found.values())
        print(f"| {kind} | {cells} | {max(share, 0) * 100:.1f} % |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    model = options.model or ensure_synthetic_model("qwen2.5-0.5b", "Q8_0")
    bench = Bench(model, options.threads)
    print_preparation(bench, options.rounds)
    steps = (bench.measure_step(options.sequences, options.tokens) for _ in range(options.rounds))
    print_tokens(bench, statistics.median(steps), options.sequences)
    bench.batcher.close()


if __name__ == "__main__":
    main()
