"""Disk access for every part: images, PNG, hashes, atomic and resumable files."""
