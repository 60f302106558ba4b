"""Choose the devices of a load: pure.

1. The model's settings name them: `tensor_split`, else `main_gpu`.
2. One device that has room now. Of several, the one with the most.
3. One device that has room after other models have left. Of several, the one with the most.
4. All devices together, split by the room that each can have.

Computing on one device is faster than on several, because nothing has to be moved between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from services.engine.core import Device, LoadConfig
from services.engine.front.models.planning.model_settings import ModelSettings
from services.shared.memory_assumptions import DEVICE_CONTEXT_BYTES

_SHARE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes by memory pool that a model could take."""

    now: Mapping[str, int]  # beside the models that are loaded
    at_most: Mapping[str, int]  # after all others but the pinned ones have left


def apply_device_settings(
    config: LoadConfig, settings: ModelSettings, devices: Sequence[Device]
) -> LoadConfig | None:
    """Case 1, or a load that needs no device; None where the choice is free.

    `validate_load` has checked that the settings fit the devices.
    """
    if not devices or config.gpu_layers == 0:
        return place(config, ())
    if settings.tensor_split:
        shares = zip(devices, settings.tensor_split, strict=False)
        chosen = [(device.pool, share) for device, share in shares if share > 0]
        return place(config, [pool for pool, _ in chosen], [share for _, share in chosen])
    if settings.main_gpu is not None:
        return place(config, [devices[settings.main_gpu].pool])
    return None


def find_usable(devices: Sequence[Device], room: Mapping[str, int]) -> list[Device]:
    """The devices that have room for more than the context of their driver."""
    return [
        device
        for device in devices
        if device.uses_main_memory or room.get(device.pool, 0) > DEVICE_CONTEXT_BYTES
    ]


def find_largest(devices: Sequence[Device], room: Mapping[str, int]) -> str:
    """The memory pool of the device that has the most room."""
    return max((device.pool for device in devices), key=lambda pool: room.get(pool, 0))


def split(config: LoadConfig, devices: Sequence[Device], room: Mapping[str, int]) -> LoadConfig:
    """Case 4. The shares are whole GiB: a few bytes more or less do not make it another load."""
    shares = {
        device.pool: (room.get(device.pool, 0) - DEVICE_CONTEXT_BYTES) // _SHARE_BYTES
        for device in devices
    }
    usable = {pool: float(share) for pool, share in shares.items() if share > 0}
    return place(config, list(usable), list(usable.values())) if usable else config


def place(config: LoadConfig, pools: Sequence[str], shares: Sequence[float] = ()) -> LoadConfig:
    """The load on these devices; without devices it has no layers to put there."""
    return msgspec.structs.replace(
        config,
        devices=tuple(pools),
        tensor_split=tuple(shares) if len(pools) > 1 else (),
        gpu_layers=config.gpu_layers if pools else 0,
    )
