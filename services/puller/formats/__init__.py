"""Read model files: parse their headers, check their templates, describe the model."""
