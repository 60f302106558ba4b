"""What two services must agree on. Imports no service."""
