"""Which GPUs a runner sees: only those that its load is planned for.

CUDA occupies some hundred MiB of every device that a process sees, also of one that it computes
nothing on. That memory would be outside of every plan. So a runner sees its own devices, numbered
from 0, and one without devices sees none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_ORDER = "CUDA_DEVICE_ORDER"
_BY_BUS = "PCI_BUS_ID"  # as nvidia-smi numbers them; CUDA's default is the fastest one first
_VISIBLE = "CUDA_VISIBLE_DEVICES"  # numbers or UUIDs, separated by commas
_NONE = "-1"
_CUDA = "cuda"


def order_devices(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with CUDA's devices in the order of the PCI bus, unless it has an order."""
    return {_ORDER: _BY_BUS, **environment}


def show_devices(environment: Mapping[str, str], devices: Sequence[str]) -> Mapping[str, str]:
    """The environment of a runner that sees these memory pools' devices only, in this order.

    Devices of another kind than CUDA's are not hidden.
    """
    numbers = [int(name.removeprefix(_CUDA)) for name in devices if name.startswith(_CUDA)]
    if devices and not numbers:
        return environment
    # The numbers are those of the devices that this process was given.
    given = [name for name in environment.get(_VISIBLE, "").split(",") if name.strip()]
    shown = [given[number] if given else str(number) for number in numbers]
    return {**order_devices(environment), _VISIBLE: ",".join(shown) or _NONE}
