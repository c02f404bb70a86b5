"""The place of weights: resident, streamed, or still in the file."""
