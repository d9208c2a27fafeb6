"""vhost-user: messages and both ends as state machines, with no socket inside."""
