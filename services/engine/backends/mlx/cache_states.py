"""What mlx-lm's caches hold of one sequence, as bytes for the prompt cache, and back.

    block   keys and values of the tokens [start, end); only of caches that can be cut anywhere
    whole   all that the caches hold, at their present length

Both are safetensors in memory, which keep every type of number. Reading looks up the classes of
nested caches by name, so only bytes that were authenticated may be read. The thread of MLX only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from services.engine.backends.mlx.library import MlxLibrary

Block = list[tuple[Any, Any]]  # keys and values of each layer: [1, heads, tokens, width]

_SCALARS = "scalars"  # in the metadata: what is no array, by its path


def save_block(library: MlxLibrary, caches: Sequence[Any], start: int, end: int) -> bytes:
    """The tokens [start, end) of dense caches."""
    arrays = {}
    for layer, cache in enumerate(caches):
        arrays[f"{layer}.keys"] = cache.keys[..., start:end, :]
        arrays[f"{layer}.values"] = cache.values[..., start:end, :]
    return _write(library, arrays, {})


def load_block(library: MlxLibrary, state: bytes | memoryview) -> Block:
    """What `save_block` saved. Raises an error of MLX, or KeyError, for anything else."""
    arrays, _ = _read(library, state)
    return [
        (arrays[f"{layer}.keys"], arrays[f"{layer}.values"]) for layer in range(len(arrays) // 2)
    ]


def join_blocks(
    library: MlxLibrary, caches: Sequence[Any], length: int, blocks: Sequence[Block]
) -> list[Any]:
    """New caches: the first `length` tokens of dense ones, and the blocks that follow them.

    Raises ValueError for blocks of another number of layers.
    """
    concatenate = library.mx.concatenate
    joined = []
    for cache, *following in zip(caches, *blocks, strict=True):
        first = [(cache.keys[..., :length, :], cache.values[..., :length, :])] if length else []
        parts = first + following
        keys = concatenate([part[0] for part in parts], axis=2)
        values = concatenate([part[1] for part in parts], axis=2)
        joined.append(type(cache).from_state((keys, values, keys.shape[2])))
    library.mx.eval([cache.state for cache in joined])
    return joined


def save_whole(library: MlxLibrary, caches: Sequence[Any]) -> bytes:
    """All of a sequence."""
    arrays, scalars = {}, {}
    for path, leaf in library.tree_flatten([cache.state for cache in caches]):
        if isinstance(leaf, library.mx.array):
            arrays[path] = leaf
        else:
            scalars[path] = leaf
    return _write(library, arrays, scalars)


def load_whole(library: MlxLibrary, empty: Sequence[Any], state: bytes | memoryview) -> list[Any]:
    """Caches of the kinds of the `empty` ones, with what `save_whole` saved.

    Raises an error of MLX, or ValueError, for anything else.
    """
    arrays, scalars = _read(library, state)
    states = library.tree_unflatten([*arrays.items(), *scalars.items()])
    return [type(cache).from_state(layer) for cache, layer in zip(empty, states, strict=True)]


def _write(library: MlxLibrary, arrays: Mapping[str, Any], scalars: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    library.mx.save_safetensors(buffer, dict(arrays), {_SCALARS: json.dumps(scalars)})
    return buffer.getvalue()


def _read(library: MlxLibrary, state: bytes | memoryview) -> tuple[dict[str, Any], dict[str, Any]]:
    arrays, metadata = library.mx.load(
        io.BytesIO(state), format="safetensors", return_metadata=True
    )
    library.mx.eval(list(arrays.values()))
    return arrays, json.loads(metadata[_SCALARS])
