"""TAP queues: what carries the device's packets on the host."""
