"""What the prompt cache of a runner costs, without a model.

    python -m bench.kvcache [--folder /dev/shm] [--rounds 5]

prints, for blocks of 3 MiB and snapshots of 64 MiB, the GB of sealing and writing and of reading and
opening per second of CPU time, beside what the file system takes for the same bytes; and the
milliseconds of a look-up among 100 and 100 000 entries. The best of the rounds is shown.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from services.engine.core import CacheConfig, CacheEvent, CacheKey
from services.engine.kv_entry import EntryHeader, entry_path
from services.engine.runner.kvcache.chain import Chain, Part
from services.engine.runner.kvcache.folder_tier import FolderTier
from services.engine.runner.kvcache.keys import DerivedKey
from services.engine.runner.kvcache.sealing import FrameSealer
from services.engine.runner.kvcache.store import PromptStore

KEY = CacheKey(b"k" * 16, b"s" * 32)
IDENTITY = b"i" * 32
TOTAL_BYTES = 256 << 20  # of one round


def best(
    action: Callable[[], object], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """The fewest seconds that a call takes."""
    seconds = []
    for _ in range(rounds):
        started = clock()
        action()
        seconds.append(clock() - started)
    return min(seconds)


class Entries:
    """Entries of one size that are written and read again and again."""

    def __init__(self, folder: Path, size: int) -> None:
        self._tier = FolderTier("ram", str(folder), deque[CacheEvent](maxlen=1))
        self._folder = folder
        self._key = DerivedKey.derive(KEY)
        self._sealer = FrameSealer()
        self._state = os.urandom(size)
        count = max(TOTAL_BYTES // size, 1)
        chain = Chain(IDENTITY, (self._key,), range(count * 256))
        self._parts = [chain.get_block(index) for index in range(count)]

    @property
    def size(self) -> int:
        return len(self._state) * len(self._parts)

    def write(self) -> None:
        for part in self._parts:
            header = self._build_header(part)
            frames = self._sealer.seal(header, self._key, part.binding, self._state)
            assert self._tier.write(self._name(part), header.file_bytes, frames)

    def read(self) -> None:
        for part in self._parts:
            opened = self._tier.read(self._name(part), 0, self._key, part, self._sealer)
            assert opened is not None

    def write_plain(self) -> None:
        for part in self._parts:
            path = Path(entry_path(str(self._folder), self._name(part)))
            path.parent.mkdir(exist_ok=True)
            path.with_suffix(".plain").write_bytes(self._state)
            path.with_suffix(".plain").replace(path)

    def _name(self, part: Part) -> str:
        return self._key.build_name("block", part.node, 0)

    def _build_header(self, part: Part) -> EntryHeader:
        return EntryHeader(
            kind="block",
            tokens=part.tokens,
            key_id=KEY.id,
            salt=os.urandom(16),
            model_tag=bytes(16),
            payload_bytes=len(self._state),
            created=0,
            seconds=1.0,
        )


def measure_throughput(folder: Path, rounds: int) -> None:
    print(f"{'GB per CPU-second':24} {'plain write':>12} {'seal, write':>12} {'read, open':>12}")
    for size in (3 << 20, 64 << 20):
        entries = Entries(folder, size)
        speeds = [
            entries.size / best(action, rounds, time.thread_time) / 1e9
            for action in (entries.write_plain, entries.write, entries.read)
        ]
        cells = " ".join(f"{speed:12.2f}" for speed in speeds)
        print(f"{f'entries of {size >> 20} MiB':24} {cells}")
        shutil.rmtree(folder)
        folder.mkdir()


def measure_lookup(folder: Path, rounds: int) -> None:
    """Look up a prompt of 4096 tokens: stored as a whole, and not at all."""
    prompt = list(range(4096))
    columns = ("start", "hash", "16 hits", "miss", "no snapshot")
    print(f"\n{'milliseconds':24} " + " ".join(f"{column:>12}" for column in columns))
    key = DerivedKey.derive(KEY)
    written = 0
    for count in (100, 100_000):
        while written < count:
            write_entry(folder, key.build_name("block", written.to_bytes(32, "little"), 0))
            written += 1
        config = CacheConfig(model_digest="m", disk_folder=str(folder))
        started = time.perf_counter()
        stores = [PromptStore(config, IDENTITY, saves_whole=whole) for whole in (False, True)]
        start = (time.perf_counter() - started) / 2
        blocks, snapshots = stores
        hit, miss = blocks.open_chain([KEY], prompt), blocks.open_chain([KEY], prompt[::-1])
        for index in range(16):
            write_entry(folder, key.build_name("block", hit.get_block(index).node, 0))
        stored = blocks.find(hit)
        assert stored is not None
        assert stored.length == 4096
        seconds = [
            start,
            best(lambda: blocks.open_chain([KEY], prompt), rounds),  # noqa: B023
            best(lambda: blocks.find(hit), rounds),  # noqa: B023
            best(lambda: blocks.find(miss), rounds),  # noqa: B023
            best(lambda: snapshots.find(miss), rounds),  # noqa: B023
        ]
        for store in stores:
            store.close(1)
        cells = " ".join(f"{value * 1000:12.3f}" for value in seconds)
        print(f"{f'{count} entries':24} {cells}")


def write_entry(folder: Path, name: str) -> None:
    """A look-up asks only whether the file is there."""
    path = Path(entry_path(str(folder), name))
    path.parent.mkdir(exist_ok=True)
    path.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure_throughput(Path(folder), options.rounds)
        measure_lookup(Path(folder), options.rounds)


if __name__ == "__main__":
    main()
