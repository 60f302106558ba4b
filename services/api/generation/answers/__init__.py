"""What the engine writes: read as events, taken apart, counted, and gathered into whole answers."""
