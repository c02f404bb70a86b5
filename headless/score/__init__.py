"""`inkstone score`: draws sets of prompts as a queue, reads the pictures, counts."""
