"""System calls that no line of mpnet's makes: those of Python's interpreter and of the C library below it."""

from mpnet.jit.system_calls import Call, equals, lacks

_PROT_EXEC = 4
_F_DUPFD_CLOEXEC = 1030

SYSTEM_CALLS = (
    # Memory for Python's objects, and for the C library's; what is large is mapped.
    Call("brk"),
    Call("mmap", lacks(2, _PROT_EXEC)),
    Call("munmap"),
    Call("mremap"),
    # Signal handlers return; the one of SIGBUS gives way to the default for what is no guest memory.
    Call("rt_sigreturn"),
    Call("rt_sigaction"),
    # mmap.mmap has a duplicate of its descriptor.
    Call("fcntl", equals(1, _F_DUPFD_CLOEXEC)),
    Call("close"),
    Call("exit_group"),
)
