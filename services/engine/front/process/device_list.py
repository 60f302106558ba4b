"""Which GPUs the installed llama.cpp can use: asked once, before anything is loaded.

The front links no llama.cpp, and a GPU's driver may end the process that asks it. So a child
process lists the devices.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence

import msgspec

from services.engine.core import Device
from services.engine.front.process.visible_devices import order_devices

DEVICES_COMMAND = (sys.executable, "-m", "services.engine.backends.llamacpp.devices")

_TIMEOUT_SECONDS = 60.0
_ATTEMPTS = 3
RETRY_SECONDS = 2.0

logger = logging.getLogger(__name__)


def list_devices(
    argv: Sequence[str] = DEVICES_COMMAND, *, retry_seconds: float = RETRY_SECONDS
) -> tuple[Device, ...]:
    """The devices, in llama.cpp's order; empty where there are none or they cannot be listed.

    Blocks for about a second.
    """
    try:
        # The last line: a driver may write to stdout as well.
        line = _run(argv, retry_seconds).strip().rpartition(b"\n")[2]
        devices = msgspec.json.decode(line, type=tuple[Device, ...])
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        logger.warning("GPUs not listed: models use main memory only", extra={"reason": str(error)})
        return ()
    if devices:
        logger.info("GPUs", extra={"devices": [f"{d.name} ({d.label})" for d in devices]})
    return devices


def _run(argv: Sequence[str], retry_seconds: float) -> bytes:
    """The output of the program. It is run again when a signal has ended it.

    CUDA aborts on a GPU whose memory is full, as it may be for a moment after a crash of this
    engine, until the driver has freed the memory of its runners.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        listing = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
            env=order_devices(os.environ),
        )
        if listing.returncode >= 0 or attempt == _ATTEMPTS:
            break
        time.sleep(retry_seconds)
    listing.check_returncode()
    return listing.stdout
