"""One package per protocol that clients speak; no dialect imports another."""
