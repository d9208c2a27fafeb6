"""The POSIX shared memory of one device: state, ring state, counters and heartbeats."""
