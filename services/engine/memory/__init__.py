"""Memory planning: how much there is, how much a model needs, and which models must leave for it."""
