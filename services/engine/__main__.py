"""`python -m services.engine`: runs the engine front until SIGTERM or SIGINT.

The first signal starts to drain; a second signal or the end of the drain time ends the requests
that still run. Exit status 2: a setting is wrong, and stderr names it. 1: the address is taken.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from services.engine.front.build import Engine, build_engine, read_model_settings_by_name
from services.engine.front.gpu_check import GpuCheck, check_gpu
from services.engine.front.models.planning.model_settings import ModelSettings
from services.engine.front.watchdog import Watchdog
from services.engine.settings import EngineSettings
from services.shared.core_dumps import forbid_core_dumps
from services.shared.errors import InvalidRequest
from services.shared.logs import set_up_logs
from services.shared.settings import read_settings

logger = logging.getLogger(__name__)


async def serve(
    settings: EngineSettings, settings_by_name: dict[str, ModelSettings], gpu: GpuCheck
) -> int:
    """Run until a signal; the exit status."""
    loop = asyncio.get_running_loop()
    drain_requested, stop_requested = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (stop_requested if drain_requested.is_set() else drain_requested).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    engine = build_engine(settings, settings_by_name, gpu=gpu)
    try:
        await engine.server.listen(settings.engine_address)
    except RuntimeError as error:
        logger.error("cannot listen", extra={"address": settings.engine_address})
        logger.debug("cannot listen", exc_info=error)
        await engine.pool.close()
        return 1
    watchdog = Watchdog.start(loop)
    logger.info("engine listening", extra={"address": settings.engine_address})
    engine.start_preload(settings.preload)
    await drain_requested.wait()
    logger.info("engine stopping", extra={"drain_seconds": settings.drain_seconds})
    await _stop(engine, settings.drain_seconds, stop_requested)
    watchdog.stop()
    return 0


async def _stop(engine: Engine, drain_seconds: float, stop_requested: asyncio.Event) -> None:
    stopping = asyncio.create_task(engine.stop(drain_seconds=drain_seconds))
    second_signal = asyncio.create_task(stop_requested.wait())
    await asyncio.wait({stopping, second_signal}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        logger.warning("engine stopping without drain")
        await engine.pool.close()
    second_signal.cancel()
    await stopping


def main() -> int:
    """Run the front; the exit status. See the module."""
    forbid_core_dumps()  # the master key would be in one
    settings = read_settings(EngineSettings)
    set_up_logs("engine", level=settings.log_level, fmt=settings.log_format)
    is_fake = settings.engine_backend == "fake"
    gpu = GpuCheck() if is_fake else check_gpu(is_required=settings.require_gpu)
    try:
        settings_by_name = read_model_settings_by_name(settings, gpu.devices)
    except InvalidRequest as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 2
    return asyncio.run(serve(settings, settings_by_name, gpu))


if __name__ == "__main__":
    sys.exit(main())
