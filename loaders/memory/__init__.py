"""Where weights are: resident, streamed, or in the file."""
