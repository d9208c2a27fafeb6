"""The distance between two processors, and what the bench says of it."""
