"""The process of one unit: `python -m bench.gpu.unit_worker UNIT [--dry]`, started by bench.gpu.call.

It writes each measurement and note as a line of JSON behind a mark to standard output. The process
is its own, because a mistake in llama.cpp or a driver ends it.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from bench.gpu.measuring import Measuring, Unsupported
from bench.gpu.scale import DRY, GPU
from bench.gpu.units import load_item
from bench.results import Measurement, Results

MEASUREMENT_MARK, NOTE_MARK, SKIP_MARK = "@measurement ", "@note ", "@skip "
SKIPPED_STATUS = 3
_WITHOUT_GPU = ("device", "models")


@dataclass(slots=True)
class _Reported(Results):
    """Results that are reported as they are added."""

    def add(
        self, scenario: str, case: str, server: str, round_number: int, **values: float | None
    ) -> None:
        Results.add(self, scenario, case, server, round_number, **values)
        for metric, value in values.items():
            if value is not None:
                measured = Measurement(scenario, case, server, round_number, metric, float(value))
                print(MEASUREMENT_MARK + json.dumps(asdict(measured)), flush=True)

    def add_note(self, text: str) -> None:
        print(NOTE_MARK + json.dumps(text), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.unit_worker", description=__doc__)
    parser.add_argument("item")
    parser.add_argument("case", type=json.loads)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _leave)
    scale = DRY if arguments.dry else GPU
    with tempfile.TemporaryDirectory(prefix="spindll-gpu-") as directory:
        measuring = Measuring(scale, _Reported(), Path(directory))
        try:
            if not (arguments.dry or arguments.item in _WITHOUT_GPU or _has_gpu()):
                raise Unsupported("llama.cpp finds no GPU")
            load_item(arguments.item).run(arguments.case, measuring)
        except Unsupported as error:
            print(SKIP_MARK + json.dumps(str(error)), flush=True)
            sys.exit(SKIPPED_STATUS)


def _has_gpu() -> bool:
    """Else llama.cpp computes on the processor without a word, and the numbers are of that."""
    from services.engine.backends.llamacpp.library import load_library

    return bool(load_library().llama_supports_gpu_offload())


def _leave(_signal: int, _frame: FrameType | None) -> None:
    """Leave through all context managers, which stop the servers."""
    sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    main()
