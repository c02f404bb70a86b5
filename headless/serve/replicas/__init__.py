"""Drawing elsewhere: replicas of Ray Serve, and what travels to them and back."""
