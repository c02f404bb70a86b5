"""What clients send and get: OpenAI's routes, jobs and graphs, keys, limits, the page."""
