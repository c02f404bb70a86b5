"""Detects which network a file holds: families, variants, key maps, recognition."""
