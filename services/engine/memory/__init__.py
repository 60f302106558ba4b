"""Memory planning: how much there is, how much a model needs, which models leave for it."""
