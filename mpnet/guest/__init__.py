"""The driver side: a virtio-net driver and traffic source, and throw-away Linux guests."""
