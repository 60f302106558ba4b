"""How one token is chosen from a row of logits, and what its probability was.

    sampler     Sampler: the only thing the loop sees; owns one answer's state
    select      the k largest of a large array, fast and exact
    filters     top-p, min-p, typical and XTC as pure functions over logits
    penalties   repetition, presence and frequency: what a window of tokens costs
    dry         DRY: what continuing a repetition costs
    draws       reproducible random numbers, a function of seed and position
    logprobs    the model's own distribution, for clients who ask

Measured at 152k tokens of vocabulary, a naive softmax chain costs 46 ms a row, more than a small
model's step. Here a greedy row costs one argmax, any other a few passes over the float32 view.
"""
