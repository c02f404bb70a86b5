"""The work of a server: its queue, who draws, and what becomes of each job."""
