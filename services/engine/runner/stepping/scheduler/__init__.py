"""Who takes part in the next step. Pure: no clock, no thread, no backend (see `scheduler.py`).

requests   what waits and runs              queue      whose turn it is to run
admission  who gets a sequence              chunks     what of whom is computed now
pace       how many prompt tokens           slices     whose prompts those are
drafts     guesses beside them              plan       what the loop is told to do
"""
