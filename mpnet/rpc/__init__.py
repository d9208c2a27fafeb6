"""Messages between processes: msgpack over Unix sockets, with file descriptors beside them."""
