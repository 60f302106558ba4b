"""A batcher over mlx-lm's BatchGenerator, which batches, samples and owns its caches itself.

    mlx_batcher       MlxBatcher: which answers are in the batch, and what came of a step
    sequence_batch    the generator, and the memory that answers and kept prefixes take
    step_report       what one step of it did
    generated_answer  one answer in the generator, and the sampler that it is given
    followers         answers that wait for another one to compute what their prompts share
    prompt_scorer     log-probabilities of a prompt, which the generator does not report
    prefix_cache      caches of earlier answers, by realm
    stored_caches     the store of computed prompts: what is fetched, restored and saved
    cache_saver       copies kept caches out of MLX for the store
    cache_restorer    builds caches from what was fetched

The generator runs one step ahead: it has sampled a token, and computes the next one, when it
reports the one before. A greedy answer leaves that as it is. An answer that needs our sampling is
written while its token is sampled, so the reports about it say nothing new.
"""
