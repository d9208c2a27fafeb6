"""Every release that mpnet is said to run on and with, tried: `make test-matrix`, which writes docs/support.md."""
