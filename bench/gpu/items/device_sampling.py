"""A top-k chain on the device, constant for each sequence, beside the copy of all logits.

With the chain, a row of candidates is copied to main memory instead of a row of the vocabulary. The
chains are set when the context is created: setting one later plans the graph again.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from unittest import mock

from bench.gpu.measuring import Case, Measuring
from bench.gpu.raw import (
    FilledSequences,
    LibraryClock,
    build_config,
    count_steps,
    decode,
    open_backend,
    time_decodes,
)
from bench.gpu.scale import Scale
from services.engine.backends.llamacpp.backend import LlamaBackend
from services.engine.backends.llamacpp.library import load_library
from services.engine.backends.llamacpp.settings import build_context_parameters
from services.engine.core import LoadConfig

NAME = "device-sampling"
NEEDS_STACK = False
_TOP_K = 128
_BUILD = "services.engine.backends.llamacpp.context.build_context_parameters"


def list_cases(scale: Scale) -> list[Case]:
    return [{"model": model, "chain": chain} for model in scale.models for chain in (False, True)]


def run(case: Case, measuring: Measuring) -> None:
    scale, tokens = measuring.scale, measuring.scale.tokens[0]
    config = build_config(
        measuring.make_model(str(case["model"])),
        scale,
        sequences=max(scale.sequences),
        tokens=tokens + count_steps(scale.steps) + 1,
    )
    with _open(config, with_chain=bool(case["chain"])) as backend:
        filled = FilledSequences(backend, tokens)
        for count in scale.sequences:
            ids = filled.grow(count)
            times = time_decodes(backend, [ids] * count_steps(scale.steps))
            with LibraryClock() as clock:
                decode(backend, ids)
            # 0 without the chain; with it, this proves that the device has applied it.
            candidates = load_library().llama_get_sampled_candidates_count_ith(clock.context, 0)
            filled.cut()
            measuring.results.add(
                f"{NAME} {case['model']}",
                f"{count} sequences of {tokens}",
                f"top_k {_TOP_K} on the device" if case["chain"] else "all logits",
                0,
                **asdict(times),
                candidates=candidates,
            )


@contextmanager
def _open(config: LoadConfig, *, with_chain: bool) -> Iterator[LlamaBackend]:
    if not with_chain:
        with open_backend(config) as backend:
            yield backend
        return
    lib = load_library()
    chains = [_build_chain(lib) for _ in range(config.max_sequences)]
    configs = (lib.llama_sampler_seq_config * len(chains))()
    for sequence, chain in enumerate(chains):
        configs[sequence].seq_id = sequence
        configs[sequence].sampler = ctypes.cast(chain, ctypes.c_void_p)

    def build_with_chains(*arguments: Any, **options: Any) -> Any:
        params = build_context_parameters(*arguments, **options)
        params.samplers = configs
        params.n_samplers = len(chains)
        return params

    try:
        with mock.patch(_BUILD, build_with_chains), open_backend(config) as backend:
            yield backend
    finally:
        for chain in chains:
            lib.llama_sampler_free(chain)


def _build_chain(lib: Any) -> Any:
    chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_top_k(_TOP_K))
    return chain
