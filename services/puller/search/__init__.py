"""Searches of registries on behalf of the api, which reaches nothing outside."""
