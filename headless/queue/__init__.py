"""A queue of jobs, resumable."""
