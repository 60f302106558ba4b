"""The engine: a front process that plans memory, and one runner process for each loaded model."""
