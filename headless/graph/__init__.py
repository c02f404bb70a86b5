"""API graphs and their executor."""
