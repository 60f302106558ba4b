"""One package per protocol that clients speak; none imports another."""
