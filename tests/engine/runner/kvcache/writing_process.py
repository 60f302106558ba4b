"""A process that saves blocks until it is killed: writing_process.py FOLDER SEED."""

from __future__ import annotations

import itertools
import sys
from functools import lru_cache
from pathlib import Path

from tests.engine.runner.kvcache.stores import KEY, make_state, make_tokens, open_store

BLOCKS = 4
STATE_BYTES = 3 << 20
CANARY = b"the canary sings of a secret prompt"


@lru_cache
def build_state(block: int) -> bytes:
    """The state of a block; each of its frames has the canary."""
    return (CANARY + make_state(200_000, seed=block)) * (STATE_BYTES // 200_000)


def main(folder: Path, seed: int) -> None:
    states = [build_state(block) for block in range(BLOCKS)]
    with open_store(disk=folder) as store:
        for number in itertools.count():
            # The prompts of one seed begin alike, so a killed process and the next one meet.
            tokens = make_tokens(256 * BLOCKS, seed=seed * 100 + number)
            chain = store.open_chain([KEY], tokens)
            for start, end in store.wants(chain, chain.length):
                store.save(chain, start, end, states[start // 256], seconds=1)
                sys.stdout.write(".")
                sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
