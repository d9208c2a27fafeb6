"""Throw-away Linux guests: Debian's kernel in QEMU, on an mpnet device or on QEMU's own."""
