"""`python -m services.engine`: the engine front, until SIGTERM or SIGINT.

The first signal drains; a second one, or the end of the drain time, ends what still runs. Exit
status 2: a setting is wrong, and stderr names it. 1: the address cannot be listened on.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys

from services.engine.front.build import Engine, build_engine, model_settings_by_name
from services.engine.front.models.model_settings import ModelSettings
from services.engine.front.watchdog import Watchdog
from services.engine.settings import EngineSettings
from services.shared.errors import InvalidRequest
from services.shared.logs import set_up_logs
from services.shared.settings import read_settings

logger = logging.getLogger(__name__)


async def serve(settings: EngineSettings, settings_of: dict[str, ModelSettings]) -> int:
    """Run until told to stop; the exit status."""
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    engine = build_engine(settings, settings_of)
    try:
        await engine.server.listen(settings.engine_address)
    except RuntimeError as error:
        logger.error("cannot listen", extra={"address": settings.engine_address})
        logger.debug("cannot listen", exc_info=error)
        await engine.pool.close()
        return 1
    watchdog = Watchdog.start(loop)
    logger.info("engine listening", extra={"address": settings.engine_address})
    engine.pool.run_until_close(engine.preload(settings.preload))
    await stop.wait()
    logger.info("engine stopping", extra={"drain_seconds": settings.drain_seconds})
    await _stop(engine, settings.drain_seconds, hurry)
    watchdog.stop()
    return 0


async def _stop(engine: Engine, drain_seconds: float, hurry: asyncio.Event) -> None:
    stopping = asyncio.create_task(engine.stop(drain_seconds=drain_seconds))
    hurrying = asyncio.create_task(hurry.wait())
    await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not stopping.done():
        logger.warning("stopping at once")
        await engine.pool.close()
    hurrying.cancel()
    await stopping


def main() -> int:
    """See the module."""
    settings = read_settings(EngineSettings)
    set_up_logs("engine", level=settings.log_level, fmt=settings.log_format)
    try:
        settings_of = model_settings_by_name(settings)
    except InvalidRequest as error:
        print(error.message, file=sys.stderr)  # noqa: T201
        return 2
    return asyncio.run(serve(settings, settings_of))


if __name__ == "__main__":
    sys.exit(main())
