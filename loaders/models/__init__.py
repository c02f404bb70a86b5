"""Loaded models of each kind, and how they are loaded."""
