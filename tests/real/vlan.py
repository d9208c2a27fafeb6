"""A station in a VLAN, made of a packet socket: the machine's kernel may know no VLANs."""

import os
import select
import socket
import struct
import threading
from types import TracebackType
from typing import Self

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

_PACKET_AUXDATA = 8
_SOL_PACKET = 263
# struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
_AUXDATA = struct.Struct("=IIIHHHH")
_TP_STATUS_VLAN_VALID = 1 << 4
_MAX_FRAME = 1 << 16
_MAC = "02:00:00:00:00:07"


class Station:
    """Answers ARP and echo requests for one address in one VLAN, on a thread, for as long as the block lasts.

    Attributes:
        echoes: echo requests answered.

    Args:
        interface: where tagged frames come and go.
        vlan: the VLAN identifier.
        address: IPv4 address answered for.
    """

    def __init__(self, interface: str, vlan: int, address: str) -> None:
        self.echoes = 0
        self._vlan = vlan
        self._address = address
        # ETH_P_ALL: tagged frames match no protocol of their own where the kernel has no VLAN support.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._socket.bind((interface, 0x0003))
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._stop, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._stopper)
        self._thread.join()
        os.close(self._stop)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            ready, _, _ = select.select([self._socket.fileno(), self._stop], [], [])
            if self._stop in ready:
                return
            frame, ancillary, _, _ = self._socket.recvmsg(_MAX_FRAME, 64)
            if self._tag(ancillary) == self._vlan:
                answer = self._answer(Ether(frame))
                if answer is not None:
                    self._socket.send(bytes(answer))

    def _tag(self, ancillary: list[tuple[int, int, bytes]]) -> int | None:
        """Give the VLAN a frame came in: the kernel takes the tag out of the frame and hands it on beside it."""
        for level, kind, data in ancillary:
            if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
                status, _, _, _, _, tci, _ = _AUXDATA.unpack_from(data)
                return tci & 0xFFF if status & _TP_STATUS_VLAN_VALID else None
        return None

    def _answer(self, frame: Packet) -> Packet | None:
        answer: Packet | None = None
        link = Ether(src=_MAC, dst=frame.src) / Dot1Q(vlan=self._vlan)
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == self._address:
            asked = frame[ARP]
            answer = link / ARP(op=2, hwsrc=_MAC, psrc=self._address, hwdst=asked.hwsrc, pdst=asked.psrc)
        elif ICMP in frame and frame[ICMP].type == 8 and frame[IP].dst == self._address:
            self.echoes += 1
            asked = frame[ICMP]
            echo = ICMP(type=0, id=asked.id, seq=asked.seq) / asked.payload
            answer = link / IP(src=self._address, dst=frame[IP].src) / echo
        return answer
