"""What `mpnet top` shows: rates out of shared memory, and the screen for them."""
