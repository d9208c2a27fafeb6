"""What of a device changes while it runs, and to what: ``mpnet device set``."""

from collections.abc import Mapping
from types import MappingProxyType

from mpnet.config.device import MAX_MTU, MAX_POLL_US, MIN_MTU

LINK = ("up", "down")
PROPERTIES: Mapping[str, str] = MappingProxyType(
    {
        "combined": "queue pairs offered from the next negotiation on, up to the device's",
        "mtu": f"{MIN_MTU} to {MAX_MTU}, the TAP's too until mpnet stops",
        "mac": "an address, as 52:54:00:12:34:56",
        "link": f"{' or '.join(LINK)}, the TAP's carrier too",
        "poll-us": f"microseconds that workers poll before they sleep, up to {MAX_POLL_US}; 0 for none",
    }
)
"""What each of them may be set to."""
