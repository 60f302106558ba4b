"""Which GPUs the installed llama.cpp can use: asked once, before anything is loaded.

The front links no llama.cpp, and a GPU's driver may end the process that asks it. So a child
process lists the devices.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from services.engine.core import Device
from services.engine.front.process.visible_devices import order_devices

DEVICES_COMMAND = (sys.executable, "-m", "services.engine.backends.llamacpp.devices")

_TIMEOUT_SECONDS = 60.0

logger = logging.getLogger(__name__)


def list_devices(argv: Sequence[str] = DEVICES_COMMAND) -> tuple[Device, ...]:
    """The devices, in llama.cpp's order; empty where there are none or they cannot be listed.

    Blocks for about a second.
    """
    try:
        listing = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
            env=order_devices(os.environ),
        )
        # The last line: a driver may write to stdout as well.
        line = listing.stdout.strip().rpartition(b"\n")[2]
        devices = msgspec.json.decode(line, type=tuple[Device, ...])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        logger.warning("GPUs not listed: models use main memory only", extra={"reason": str(error)})
        return ()
    if devices:
        logger.info("GPUs", extra={"devices": [f"{d.name} ({d.label})" for d in devices]})
    return devices
