"""A Redis that hangs holds up only what needs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.api.chat_helpers import BODY, PATH
from tests.api.conftest import make_manifest, put_model, running_api
from tests.fakes.scripted_engine import ScriptedEngine


class FreezableRedis:
    """A proxy in front of Redis; once frozen it accepts everything and answers nothing."""

    def __init__(self, redis_url: str) -> None:
        assert redis_url.startswith("unix://")
        self._socket = urlsplit(redis_url).path
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    def freeze(self) -> None:
        self._thawed.clear()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[FreezableRedis]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self._thawed.set()
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(self._socket)
        for source, target in ((reader, up_writer), (up_reader, writer)):
            self._tasks.add(asyncio.create_task(self._copy(source, target)))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                await self._thawed.wait()
                target.write(data)
                await target.drain()
        finally:
            target.close()


async def test_chats_go_on_while_every_call_to_redis_hangs(
    tmp_path: Path, redis_url: str, engine: ScriptedEngine
) -> None:
    put_model(tmp_path / "data" / "models", make_manifest())
    async with (
        FreezableRedis(redis_url).serve() as redis,
        running_api(tmp_path, redis.url, engine) as api,
        api.client() as client,
    ):
        assert (await client.post(PATH, json=BODY)).status_code == 200
        redis.freeze()
        # More than there are threads; each looks for a download of its model.
        hanging = [
            asyncio.create_task(client.get(f"/v1/models/unknown{number}")) for number in range(80)
        ]
        refused = await asyncio.gather(*(client.get("/v1/pulls") for _ in range(5)))
        answer = await client.post(PATH, json=BODY)

        assert answer.status_code == 200
        assert not all(task.done() for task in hanging)
        assert {each.status_code for each in refused} == {503}
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
