"""MLX: load a folder of safetensors, and know its sizes and its tokens.

    library      opens MLX and mlx-lm once per process
    loading      a folder -> a model that is ready, or one sentence that says why not
    folder       what is checked before any of it is read by mlx-lm
    sizes        the memory that a load takes
    vocabulary   text to tokens and back
    pooled       the vectors of texts
    cache_states what the caches of a sequence hold, as bytes

mlx-lm batches and samples by itself, so this is no `Backend`: the batcher over it is
`services/engine/runner/mlx`. All calls but those of the vocabulary come from one thread.
"""
