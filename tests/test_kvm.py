"""Kicks by ioeventfd and calls by irqfd: a guest under KVM, whose kernel carries both."""

import re
import tempfile
from pathlib import Path

from tests.real.kvm import guest
from tests.real.netns import add_addresses
from tests.real.running import running_on_tap

ROUNDS = 64
"""As the guest has it."""


def test_kicks_and_calls_go_through_the_kernel() -> None:
    """The guest halts between a request and its reply: one that a notification does not wake hangs."""
    assert Path("/dev/kvm").exists(), "there is no /dev/kvm: this test needs a machine with KVM, nested or not"
    with tempfile.TemporaryDirectory(prefix="mpnet-kvm-") as folder, running_on_tap() as running:
        add_addresses("tap0", "198.18.77.1/24")
        found = guest.run(guest.build(Path(folder)), running.socket, Path(folder))
        rx, tx = (ring for ring in running.show()["rings"] if ring["direction"] in {"rx", "tx"})
    assert found.answers == tx["packets"] == ROUNDS
    # Each ring has a kick of its own in the kernel, and QEMU saw none itself.
    assert len(set(re.findall(r"kvm_set_ioeventfd_mmio .*assign: 1", found.trace))) >= 2
    assert "virtio_queue_notify" not in found.trace
    assert tx["kicks"] >= 1
    assert rx["kicks"] >= 1
    # MSI-X routes to the kernel's interrupt controller; an edge may stand for several calls, and never for none.
    assert "msi_route" in found.trace
    assert 1 <= found.rx_calls <= rx["calls"]
    assert 1 <= found.tx_calls <= tx["calls"]
