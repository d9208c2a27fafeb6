"""VIRTIO 1.3 as Python: features, rings, headers, configuration space, control commands."""
