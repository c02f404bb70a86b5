"""`inkstone serve`: OpenAI's image routes and a queue's jobs behind one door."""
