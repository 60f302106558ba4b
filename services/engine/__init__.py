"""The engine: a front that plans memory and supervises, and one runner process per model."""
