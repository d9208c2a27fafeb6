"""mpnet: a virtio-net device run as a family of Python processes."""

__version__ = "0.1.0"
