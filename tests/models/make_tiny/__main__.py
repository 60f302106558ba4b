"""The command `python -m tests.models.make_tiny`; see the docstring of the package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tests.models.make_tiny import record as recording
from tests.models.make_tiny.export_gguf import write_gguf
from tests.models.make_tiny.export_mlx import write_mlx

STEPS = 1300


def train(folder: Path, steps: int) -> None:
    """Train a new model and write all its files. Requires torch."""
    from tests.models.make_tiny.tokenizer import train_tokenizer
    from tests.models.make_tiny.training import train as train_weights

    tokenizer = train_tokenizer()
    weights: dict[str, Any] = train_weights(tokenizer, steps)
    _write_formats(weights, tokenizer.to_str(pretty=True), folder)
    record(folder)


def export(folder: Path) -> None:
    """Write every format from the weights and the tokenizer of `mlx-f16`."""
    source = folder / "mlx-f16"
    tokenizer = (source / "tokenizer.json").read_text(encoding="utf-8")
    _write_formats(load_file(source / "model.safetensors"), tokenizer, folder)


def _write_formats(weights: dict[str, Any], tokenizer: str, folder: Path) -> None:
    """Write all formats. `mlx-q8` is for comparison and is not committed."""
    write_mlx(weights, tokenizer, folder / "mlx-f16", quantised=False)
    write_mlx(weights, tokenizer, folder / "mlx-q8", quantised=True)
    vocabulary = folder / "mlx-f16" / "tokenizer.json"
    write_gguf(weights, vocabulary, folder / "tiny-f16.gguf", quantised=False)
    write_gguf(weights, vocabulary, folder / "tiny-q8_0.gguf", quantised=True)


def record(folder: Path) -> None:
    """Write the answers of the f16 file to expected.json, and print how many are as taught."""
    records = recording.record(folder / "tiny-f16.gguf")
    recording.write(records, folder / "expected.json")
    correct = sum("taught" not in one for one in records)
    print(f"{correct} of {len(records)} answers are exactly as taught")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.models.make_tiny")
    parser.add_argument("task", choices=["train", "export", "record"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps")
    options = parser.parse_args()
    if options.task == "train":
        train(options.folder, options.steps)
    else:
        {"export": export, "record": record}[options.task](options.folder)


if __name__ == "__main__":
    main()
