"""The version of Inkstone; pyproject.toml names it too."""

__version__ = "0.1.0"
