"""Tries every release that mpnet is said to run on and with: `make test-matrix`, which writes docs/support.md."""
