"""Loaded models of each kind, and their loaders."""
