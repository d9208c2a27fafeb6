"""The ground under the data path: loads, stores, fences and system calls as one-liners.

The same source runs compiled by Numba and, under ``MPNET_JIT=0``, interpreted, so that it can be stepped
through, covered and property-tested. Every value is a signed 64-bit integer: Numba turns a mix of signed and
unsigned into a float, and a user-space address always fits. A 64-bit value read from a guest may therefore be
negative; whoever checks its range refuses that.
"""
