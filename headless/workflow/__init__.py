"""Workflow files: read, convert, check, run."""
