"""Processes that save blocks until they are killed: writing_process.py FOLDER.

For each line of its input, a seed, it forks such a process, which is quicker than a new one. It
prints the id of the process, "begun" when that begins to save, and "ended".
"""

from __future__ import annotations

import itertools
import os
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


def save_blocks(folder: Path, seed: int) -> None:
    states = [build_state(block) for block in range(BLOCKS)]
    with open_store(disk=folder) as store:
        print("begun", flush=True)
        for number in itertools.count():
            tokens = make_tokens(256 * BLOCKS, seed=seed * 100 + number)
            chain = store.open_chain([KEY], tokens)
            for start, end in store.wants(chain, chain.length):
                if store.has_room():
                    store.save(chain, start, end, states[start // 256], seconds=1)


def main(folder: Path) -> None:
    for block in range(BLOCKS):
        build_state(block)  # once for all processes
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            save_blocks(folder, int(line))
        print(process, flush=True)
        os.waitpid(process, 0)
        print("ended", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
