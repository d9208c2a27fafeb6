"""All systems there are. One more is a class with the methods of ``System`` and a line here."""

from mpnet.bench.system import System
from mpnet.bench.systems.dpdk import Dpdk
from mpnet.bench.systems.limit import Limit
from mpnet.bench.systems.mpnet import Mpnet
from mpnet.bench.systems.qemu import Qemu

OURS: System = Mpnet()
PEERS: tuple[System, ...] = (Limit(), Qemu(), Dpdk())
SYSTEMS = {system.name: system for system in (OURS, *PEERS)}
