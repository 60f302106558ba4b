"""A runner: one process per loaded model; backend, scheduler, sampler and cache in one loop."""
