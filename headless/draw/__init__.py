"""`inkstone draw`: a call from prompt to picture."""
