"""What ``mpnet demo`` shows: a device with everything around it, both ends, in a network namespace of its own."""
