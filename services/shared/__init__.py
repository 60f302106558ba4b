"""Code that two or more services need. Imports no service."""
