"""Load a GGUF model: as a backend that generates, or as an encoder that computes vectors only.

A dry run does the same without the weights. What it reports is exact to the byte.
"""

from __future__ import annotations

from services.engine.backends.base import OnProgress
from services.engine.backends.llamacpp.backend import LlamaBackend
from services.engine.backends.llamacpp.context import LlamaContext, NoMemoryError
from services.engine.backends.llamacpp.library import capture_log, load_library
from services.engine.backends.llamacpp.model import LlamaModel
from services.engine.backends.llamacpp.pooled import LlamaPooledModel
from services.engine.backends.llamacpp.settings import count_offloaded_layers, place_layers
from services.engine.backends.llamacpp.sizes import Sizes, parse_sizes
from services.engine.backends.pooling import Encoder
from services.engine.core import HOST, LoadConfig, MemoryPolicy, ModelInfo


def open_model(
    config: LoadConfig, on_progress: OnProgress, *, dry: bool = False
) -> LlamaBackend | Encoder:
    """Read the weights, create the contexts, find the memory policy. Raises ModelLoadFailed.

    `dry`: read the header alone; `info` has the sizes, and nothing can be computed.
    """
    lib = load_library()
    with capture_log() as lines:
        model = LlamaModel(lib, config, on_progress, dry=dry)
        context = None
        try:
            if not model.is_encoder:
                context, lines[:] = _create_context(model, config, lines)
            model.is_encoder = context is None
            pooled = LlamaPooledModel(lib, model, config)
            if config.embeds or context is None:
                pooled.open()
        except BaseException:
            if context is not None:
                context.close()
            model.close()
            raise
    sizes = parse_sizes(lines, config.devices)
    if context is None:
        return _build_encoder(model, pooled, config, sizes)
    policy = read_policy(model) if dry else _probe_policy(model, context)
    info = _build_info(
        model, pooled, config, sizes, policy=policy, context_length=context.context_length
    )
    return LlamaBackend(model, context, pooled, info)


def _create_context(
    model: LlamaModel, config: LoadConfig, lines: list[str]
) -> tuple[LlamaContext | None, list[str]]:
    """The context, and the log lines about what remains; None for an encoder."""
    before = list(lines)
    try:
        return LlamaContext(load_library(), model, config), list(lines)
    except NoMemoryError:
        return None, before  # its buffers are freed


def _build_encoder(
    model: LlamaModel, pooled: LlamaPooledModel, config: LoadConfig, sizes: Sizes
) -> Encoder:
    def close() -> None:
        pooled.close()
        model.close()

    info = _build_info(
        model,
        pooled,
        config,
        sizes,
        policy=MemoryPolicy.DENSE,
        context_length=pooled.facts.max_tokens,
    )
    return Encoder(info, model.vocabulary, pooled, close)


def _build_info(
    model: LlamaModel,
    pooled: LlamaPooledModel,
    config: LoadConfig,
    sizes: Sizes,
    *,
    policy: MemoryPolicy,
    context_length: int,
) -> ModelInfo:
    """Describe a load or a dry run for the front."""
    import llama_cpp

    layers = place_layers(config, model.layers)
    pools = sizes.pool_bytes(weights_bytes=model.weights_bytes, layers=layers)
    context = pooled.open() if pooled.is_open else None
    output_bytes = context.output_bytes if context is not None else 0
    pools[HOST] = pools.get(HOST, 0) + output_bytes
    return ModelInfo(
        architecture=model.architecture,
        vocab_size=model.vocabulary.size,
        context_length=context_length,
        trained_context_length=model.trained_context_length,
        short_context_length=model.short_context_length,
        max_sequences=config.max_sequences,
        memory_policy=policy,
        window=model.window,
        gpu_layers=count_offloaded_layers(config, model.layers),
        backend=f"llama.cpp {llama_cpp.__version__}",
        weights_bytes=model.weights_bytes,
        kv_bytes=sizes.kv_bytes,
        compute_bytes=sizes.compute_bytes + output_bytes,
        pool_bytes={pool: size for pool, size in pools.items() if size > 0},
        embedding_bytes=dict(context.pool_bytes) if context is not None else {},
    )


def read_policy(model: LlamaModel) -> MemoryPolicy:
    """The memory policy that the model's header suggests."""
    if model.is_recurrent:
        return MemoryPolicy.RECURRENT
    return MemoryPolicy.WINDOW if model.window > 0 else MemoryPolicy.DENSE


def _probe_policy(model: LlamaModel, context: LlamaContext) -> MemoryPolicy:
    """Find the policy by testing the memory, because the architecture may be one we do not know."""
    return read_policy(model) if context.can_cut() else MemoryPolicy.RECURRENT
