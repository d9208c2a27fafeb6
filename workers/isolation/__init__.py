"""How little a worker is left with, before it looks at the first byte of a guest's.

A guest writes what a worker reads: rings, descriptors, frames. Every one of those is checked, and should a
check be wrong all the same, the worker is what the guest has got. So a worker gives away, one after the other,
whatever it can do without. It works on what it holds: its channel to control, the device's segment, and what
control hands it over that channel, which is guest memory, eventfds, TAP queues and captures. Everything else
goes:

``descriptors``   what it inherited beyond those.
``user``          root's own files and processes: it becomes another user, in no other group.
``namespaces``    the machine's network, its System V and POSIX queues.
``root``          its files: what is mounted is unmounted for this process, and an empty root is left.
``capabilities``  all of them, also those that it could ever get.
``privileges``    that programs it starts have more than it; that processes of the same user look into it.
``landlock``      files and TCP once more, in case the kernel would not empty the root.
``seccomp``       all system calls but those that are declared beside the code that makes them.

The order is forced: who has no capabilities can leave nothing, and who is filtered can do nothing of the kind
any more. None of this is needed to move a packet, so a kernel or a container that refuses a stage costs that
stage alone: the others are gone through, control is told, and its log says what is missing. ``mpnet doctor
--security`` tells beforehand.

A call that is not declared is not carried out. The worker then tells control which it was and ends by SIGSYS
(``violation``): it is replaced like any other that died, and the guest goes on.

io_uring would be a way round the filter, as its operations are no system calls. A worker's ring is therefore
made before, restricted by the kernel itself to writes to registered files (``mpnet.jit.uring_setup``).

What this does not take: the memory of the device's own guest, the queues of its own TAP, the segment that tells
control and replacements how far rings are, and time on a processor.
"""
