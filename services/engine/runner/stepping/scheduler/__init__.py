"""Decide what the next step computes. Pure: no clock, no thread, no backend (see `scheduler.py`).

request         requests and their branches     fair_queue      which waiting branch is next
admission       which branches run              places          which one yields its place
following       which prompts others wait for   chunking        which tokens are computed
prefill_budget  how many prompt tokens          prefill_shares  of which prompts
drafts          drafted tokens beside them      step_plan       the plan, and the result of a step
stored_prefixes what it asks of the store
"""
