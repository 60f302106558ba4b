"""Choose one token from a row of logits, and compute its probability.

    sampler     Sampler: the interface of this package; owns the state of one answer
    select      the k largest values of a large array, fast and exact
    filters     top-p, min-p, typical and XTC as pure functions over logits
    penalties   repetition, presence and frequency penalties for a window of tokens
    dry         DRY: the penalty for continuing a repetition
    draws       reproducible random numbers, as a function of seed and position
    logprobs    log-probabilities under the model's own distribution

With a vocabulary of 152k tokens, a naive chain of softmax calls takes 46 ms per row (measured),
more than the step of a small model. Here a greedy row takes one argmax, and any other row a few
passes over the float32 view.
"""
