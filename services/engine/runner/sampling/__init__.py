"""Choose one token from a row of logits, and compute its probability.

    sampler     Sampler: the interface of this package; owns the state of one answer
    row         a row of logits, and what has been computed of it
    candidates  the tokens of a draw, sorted by probability
    filters     top-p, min-p, typical and XTC as pure functions over sorted candidates
    penalties   repetition, presence and frequency penalties for a window of tokens
    dry         DRY: the penalty for continuing a repetition
    draws       reproducible random numbers, as a function of seed and position
    logprobs    log-probabilities under the model's own distribution
    select      the k largest values of a large array, fast and exact
    sums        where the running sum of a large array passes an amount

With a vocabulary of 152k tokens, a naive chain of softmax calls takes 46 ms per row (measured),
more than the step of a small model. Here a greedy row takes one argmax, a row with top-k about two
passes over the row, and only a flat distribution without top-k is sorted, which takes 0.5 ms
(`python -m bench.sampling`).
"""
