"""Where models come from: one module for each kind of source, and one Protocol for all."""
