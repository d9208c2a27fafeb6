"""Real parts for the tests: Linux guests, and a network namespace to run them in."""
