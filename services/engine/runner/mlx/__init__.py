"""A batcher over mlx-lm's BatchGenerator, which batches, samples and owns its caches itself.

    mlx_batcher      MlxBatcher: which answers are in the generator, and what came of a step
    generated_answer one answer in the generator, and the sampler that it is given
    prompt_scorer    log-probabilities of a prompt, which the generator does not report
    prefix_cache     caches of earlier answers, by realm

The generator runs one step ahead: it has sampled a token, and computes the next one, when it
reports the one before. A greedy answer leaves that as it is. An answer that needs our sampling is
written while its token is sampled, so the reports about it say nothing new.
"""
