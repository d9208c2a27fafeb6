"""What `mpnet device xml` prints: the parts of a libvirt domain that attach an mpnet device."""

from xml.etree import ElementTree as ET

from mpnet.guest.linux.qemu import Machine, VhostUserNic


def libvirt_xml(nic: VhostUserNic, machine: Machine) -> str:
    """Give a `<domain>` fragment with the interface and the shared memory it needs.

    Returns:
        One well-formed element, indented; its children are to be merged into a domain (`virsh edit`).
    """
    domain = ET.Element("domain", type="kvm" if machine.accel == "kvm" else "qemu")
    memory = ET.SubElement(domain, "memory", unit="MiB")
    memory.text = str(machine.memory_mib)
    backing = ET.SubElement(domain, "memoryBacking")
    source = "memfd" if machine.backend == "memfd" else "file"
    ET.SubElement(backing, "source", type=source)
    ET.SubElement(backing, "access", mode="shared")
    devices = ET.SubElement(domain, "devices")
    devices.append(_interface(nic))
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def _interface(nic: VhostUserNic) -> ET.Element:
    interface = ET.Element("interface", type="vhostuser")
    if nic.mac:
        ET.SubElement(interface, "mac", address=nic.mac)
    # mode="client": libvirt's word for QEMU connecting to the back-end's socket.
    source = ET.SubElement(interface, "source", type="unix", path=nic.socket, mode="client")
    if nic.reconnect:
        ET.SubElement(source, "reconnect", enabled="yes", timeout=str(nic.reconnect))
    ET.SubElement(interface, "model", type="virtio")
    driver = {}
    if nic.queue_pairs > 1:
        driver["queues"] = str(nic.queue_pairs)
    if nic.rx_queue_size:
        driver["rx_queue_size"] = str(nic.rx_queue_size)
    if nic.tx_queue_size:
        driver["tx_queue_size"] = str(nic.tx_queue_size)
    if driver:
        ET.SubElement(interface, "driver", driver)
    # No <mtu>: libvirt would set it on an interface of the host as well, which it finds with Open vSwitch alone,
    # and would not start the guest.
    return interface
