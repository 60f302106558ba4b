"""The paths of the API: validate, call, shape. What they call raises services.shared.errors."""
