"""How a model would be loaded: its settings, its devices, its memory. Starts nothing."""
