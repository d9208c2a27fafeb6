"""A control process with fake workers: ``python -m tests.control_process ID SOCKET [PRELOAD]``."""

import asyncio
import sys

from mpnet.config.control import ControlConfig
from mpnet.config.device import DeviceConfig
from mpnet.control.launcher import Launcher
from mpnet.control.log import configure
from mpnet.control.server import Control


def main() -> None:
    device, path, *preload = sys.argv[1:]
    configure()
    config = DeviceConfig(id=device, tap="tap0", socket=path, queue_pairs=2, create=True)

    async def serve() -> None:
        control = Control(
            [config], ControlConfig(), launcher=Launcher("tests.fake_worker:run", tuple(preload), mode="0")
        )
        await control.run(ready=lambda: print("ready", flush=True))  # noqa: T201 - the test waits for it

    asyncio.run(serve())


if __name__ == "__main__":
    main()
