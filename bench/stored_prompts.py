"""Measure what stored prompts save, and what storing and fetching them costs, in one process.

    python -m bench.stored_prompts [--tokens 4096] [--rounds 3] [--model FILE] [--ram-folder /dev/shm]

Per round, with a prompt of its own: the first token without a store and on a miss; from the disk and
from RAM, each in a batcher whose memory is empty; of the second turn of a chat; and the gaps of a
neighbour's answer, alone, while the prompt is copied out, and while it is loaded. Rounds alternate
which of two comes first. Ratios are taken within a round, and the medians of all rounds are shown.
The settings are the default ones, the model has the shape of Qwen2.5-0.5B and random weights.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.load import percentile
from bench.machine import core_count
from bench.model_files import ensure_synthetic_model
from services.engine.core import CacheConfig, CacheKey, CacheStored, LoadConfig, Sampling, Stopping
from services.engine.messages.commands import Submit
from services.engine.messages.reports import Finished
from services.engine.runner.batcher import Batcher, Written
from services.engine.runner.build import build_input_processor, open_batcher
from services.engine.runner.kvcache.chain import BLOCK_TOKENS
from services.engine.runner.requests.output_processor import OutputProcessor

KEYS = (CacheKey(b"k" * 16, b"s" * 32),)
NEW_TOKENS = 64  # of the second turn
ANSWER_TOKENS = 32
TAIL_TOKENS = 24  # behind the whole blocks of a prompt: they are always computed
CALM_STEPS = 60
NEIGHBOUR = 1  # its request id
_TIMEOUT_SECONDS = 60.0


class Run:
    """Requests for one batcher, stepped here; a clock around each step."""

    def __init__(self, batcher: Batcher) -> None:
        self.batcher = batcher
        self.finished: dict[int, Finished] = {}
        self.first_token_at: dict[int, float] = {}
        self._input_processor = build_input_processor(batcher)
        self._output_processor = OutputProcessor(batcher.counters)
        self._last_id = NEIGHBOUR

    def add(self, tokens: Sequence[int], count: int, *, id_: int = 0, stores: bool = True) -> int:
        """Add a request for `count` tokens; returns its id."""
        self._last_id += 1
        submit = Submit(
            id=id_ or self._last_id,
            tokens=tuple(tokens),
            sampling=Sampling(temperature=0.0),
            stopping=Stopping(max_tokens=count, ignore_eos=True),
            cache_keys=KEYS if stores else (),
        )
        prepared = self._input_processor.prepare(submit, arrived_at=time.monotonic())
        self._output_processor.add(prepared)
        self.batcher.add(prepared.request)
        return submit.id

    def step(self) -> None:
        """Compute one step."""
        began = time.monotonic()
        events = self.batcher.step(began)
        ended = time.monotonic()
        for event in events:
            if isinstance(event, Written):
                self.first_token_at.setdefault(event.id, ended)
        self._output_processor.process(events, began_at=began, ended_at=ended)
        for report in self._output_processor.take_events():
            if isinstance(report, Finished):
                self.finished[report.id] = report

    def time_first_token(self, tokens: Sequence[int], count: int = 1, **options: bool) -> float:
        """Seconds to the first token of a request; the batcher is idle afterwards."""
        began = time.monotonic()
        id_ = self.add(tokens, count, **options)
        while not self.batcher.read_state().is_idle:
            self.step()
        return self.first_token_at[id_] - began

    def measure_gaps(self, is_over: Callable[[], bool]) -> list[float]:
        """The seconds of each step, until something is over."""
        gaps = []
        while not is_over():
            began = time.monotonic()
            self.step()
            gaps.append(time.monotonic() - began)
        return gaps

    def wait_for_copies(self, tokens: int, tier: str) -> None:
        """Wait until so many tokens were written to a tier."""
        store = self.batcher.store
        assert store is not None
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        written = 0
        while written < tokens and time.monotonic() < deadline:
            events = [event for event in store.take_events() if isinstance(event, CacheStored)]
            written += sum(event.tokens for event in events if event.tier == tier)
            time.sleep(0.01)


@contextmanager
def opened(config: LoadConfig) -> Iterator[Run]:
    """A batcher with an empty memory. It has computed some tokens, so that it is warm."""
    batcher = open_batcher(config, lambda _: None)
    run = Run(batcher)
    try:
        run.time_first_token(draw_prompt(random.Random(0), 64), 4, stores=False)
        yield run
    finally:
        if batcher.store is not None:
            batcher.store.close(_TIMEOUT_SECONDS)
        batcher.close()


def draw_prompt(draw: random.Random, length: int) -> list[int]:
    """Random tokens, which every vocabulary has."""
    return [draw.randrange(300, 900) for _ in range(length)]


def measure_first_tokens(
    config: LoadConfig, prompt: list[int], other: list[int]
) -> dict[str, float]:
    """Milliseconds to the first token of a prompt, and ratios of them."""
    draw = random.Random(len(prompt))
    with opened(config) as run:
        # Which one comes first alternates with the order of the two prompts.
        for tokens in sorted((prompt, other)):
            if tokens is prompt:
                miss = run.time_first_token(prompt, ANSWER_TOKENS)
            else:
                without = run.time_first_token(other, ANSWER_TOKENS, stores=False)
        run.wait_for_copies(count_whole_blocks(prompt), "disk")
    with opened(config) as run:
        disk = run.time_first_token(prompt)
        run.wait_for_copies(count_whole_blocks(prompt), "ram")
    with opened(config) as run:
        ram = run.time_first_token(prompt)
    with opened(config) as run:
        computed = run.batcher.counters.computed_tokens
        turn = run.time_first_token(prompt + draw_prompt(draw, NEW_TOKENS))
        computed = run.batcher.counters.computed_tokens - computed
    return {
        "without store ms": 1000 * without,
        "miss ms": 1000 * miss,
        "miss / without": miss / without,
        "disk ms": 1000 * disk,
        "without / disk": without / disk,
        "ram ms": 1000 * ram,
        "without / ram": without / ram,
        "longer prompt ms": 1000 * turn,
        "longer prompt, tokens computed": float(computed),
    }


def measure_neighbour(config: LoadConfig, prompt: list[int], words: list[int]) -> dict[str, float]:
    """The 95th percentile of the steps of an answer: alone, and beside copies of a prompt."""
    count = len(prompt) // 8 + 4 * CALM_STEPS
    with opened(config) as run:
        run.add(words, 4 * count, id_=NEIGHBOUR, stores=False)
        run.measure_gaps(lambda: NEIGHBOUR in run.first_token_at)
        id_ = run.add(prompt, 1)
        run.measure_gaps(lambda: id_ in run.finished)
        saving = run.measure_gaps(lambda: not run.batcher.read_state().saving)
        after_saving = measure_calm(run)
        run.wait_for_copies(count_whole_blocks(prompt), "disk")
    with opened(config) as run:
        run.add(words, 4 * count, id_=NEIGHBOUR, stores=False)
        run.measure_gaps(lambda: NEIGHBOUR in run.first_token_at)
        before_loading = measure_calm(run)
        id_ = run.add(prompt, 1)
        started = run.batcher.counters.computed_tokens
        loading = run.measure_gaps(
            lambda: run.batcher.counters.computed_tokens > started or id_ in run.finished
        )[:-1]  # the last one computes the end of the prompt
    return {
        "saving steps": float(len(saving)),
        "saving p95 / calm p95": p95(saving) / p95(after_saving),
        "loading steps": float(len(loading)),
        "loading p95 / calm p95": p95(loading) / p95(before_loading),
    }


def measure_calm(run: Run) -> list[float]:
    """The steps of the neighbour alone."""
    last = run.batcher.counters.steps + CALM_STEPS
    return run.measure_gaps(lambda: run.batcher.counters.steps >= last)


def p95(gaps: Sequence[float]) -> float:
    """The 95th percentile; not a number without gaps."""
    found = percentile(gaps, 95)
    return float("nan") if found is None else found


def count_whole_blocks(prompt: Sequence[int]) -> int:
    """The tokens that a dense memory stores of a prompt."""
    return len(prompt) // BLOCK_TOKENS * BLOCK_TOKENS


def build_config(model: Path, tokens: int, disk: Path, ram: Path) -> LoadConfig:
    """A load with the default settings, and room for two such prompts."""
    return LoadConfig(
        model_path=str(model),
        backend="llamacpp",
        context_length=-(-2 * tokens // 1024) * 1024 + 2048,
        max_sequences=4,
        threads=core_count(),
        speculate=False,  # random tokens repeat: drafts would blur the steps
        cache=CacheConfig(model_digest="sha256:bench", disk_folder=str(disk), ram_folder=str(ram)),
    )


def add_results(results: dict[str, list[float]], measured: dict[str, float]) -> None:
    """Add the results of a part of a round, and print them."""
    for name, value in measured.items():
        results.setdefault(name, []).append(value)
        print(f"{name:32} {value:12.3f}", flush=True)


def main() -> None:
    """Run the rounds, and print the medians."""
    parser = argparse.ArgumentParser(description="What stored prompts save and cost.")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a GGUF file; default: a synthetic model")
    parser.add_argument("--ram-folder", type=Path, default=Path("/dev/shm"))
    arguments = parser.parse_args()
    model = arguments.model or ensure_synthetic_model("qwen2.5-0.5b", "Q8_0")
    draw = random.Random(1)
    results: dict[str, list[float]] = {}
    with (
        tempfile.TemporaryDirectory() as disk,
        tempfile.TemporaryDirectory(dir=arguments.ram_folder) as ram,
    ):
        config = build_config(model, arguments.tokens, Path(disk), Path(ram))
        for _ in range(arguments.rounds):
            prompts = [draw_prompt(draw, arguments.tokens + TAIL_TOKENS) for _ in range(3)]
            add_results(results, measure_first_tokens(config, *prompts[:2]))
            add_results(results, measure_neighbour(config, prompts[2], draw_prompt(draw, 32)))
    print(f"\nmedians of {arguments.rounds} rounds, {arguments.tokens} tokens")
    for name, values in results.items():
        print(f"{name:32} {median(values):12.3f}")


if __name__ == "__main__":
    main()
