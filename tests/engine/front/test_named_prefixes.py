"""Named prefixes through the engine's gRPC, with a real runner, the tiny model and a real Redis."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import redis
from grpc import aio

from protos import engine_pb2 as pb
from services.engine.front.cache_index.pinned_prefixes import PinnedPrefixes
from services.engine.front.models.loaded_model import LoadedModel
from services.engine.front.models.manager import ModelManager
from services.engine.front.prefix_keeper import MAX_CREATING
from services.engine.front.process.launcher import RUNNER_COMMAND
from services.shared.store.model_store import ModelStore
from tests.conftest import TINY_GGUF
from tests.engine.engine_server import RunningFront, add_model, eventually, running_front

CANARY = "The canary sings in the mine at night. "
PREFIX = CANARY * 24
LONG_PREFIX = CANARY * 47  # more than the smallest budget
MODES = ("unified", "split")  # stored in blocks, and as snapshots


@pytest.fixture
def data(tmp_path: Path) -> Path:
    add_model(tmp_path, "tiny", TINY_GGUF.read_bytes())
    return tmp_path


@pytest.fixture
def open_front(data: Path, redis_url: str) -> Any:
    @asynccontextmanager
    async def opened(**settings: Any) -> AsyncIterator[RunningFront]:
        defaults: dict[str, Any] = {
            "context_length": 2048,
            "threads": 1,
            "max_sequences": 2,
            "cache_disk": "64M",
            "cache_min_free": "1M",
            "cache_pinned_share": 0.5,
        }
        async with running_front(
            data, runner=RUNNER_COMMAND, redis_url=redis_url, **defaults | settings
        ) as front:
            yield front

    return opened


async def create(
    front: RunningFront, name: str = "rules", text: str = PREFIX, tenant: str = "alice"
) -> pb.Prefix:
    prompt = pb.PromptText(pieces=[pb.TextPiece(text=text)])
    request = pb.CreatePrefixRequest(name=name, tenant=tenant, model="tiny", text=prompt)
    prefix: pb.Prefix = await front.stub.CreatePrefix(request)
    return prefix


async def create_at_once(front: RunningFront, count: int, principal: str) -> list[str | None]:
    """The codes of the errors, None for each prefix."""
    text = pb.PromptText(pieces=[pb.TextPiece(text=PREFIX)])
    calls = [
        front.stub.CreatePrefix(
            pb.CreatePrefixRequest(
                name=f"rules-{number}", principal=principal, model="tiny", text=text
            )
        )
        for number in range(count)
    ]
    made = await asyncio.gather(*calls, return_exceptions=True)
    return [
        _read_error(each)["code"] if isinstance(each, aio.AioRpcError) else None for each in made
    ]


async def list_prefixes(front: RunningFront, tenant: str | None = None) -> list[pb.Prefix]:
    return list((await front.stub.ListPrefixes(pb.ListPrefixesRequest(tenant=tenant))).prefixes)


async def ask(front: RunningFront, text: str, tenant: str = "alice") -> pb.Finished:
    stopping = pb.Stopping(max_tokens=1)
    _, last = await front.client().ask("tiny", text, tenant=tenant, stopping=stopping)
    assert last.WhichOneof("kind") == "finished", last
    return last.finished


async def fail(call: Any) -> dict[str, Any]:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return _read_error(caught.value)


def _read_error(caught: aio.AioRpcError) -> dict[str, Any]:
    metadata = dict(caught.trailing_metadata() or ())
    error: dict[str, Any] = json.loads(unquote(str(metadata["spindll-error"])))
    return error


def entry_files(folder: Path) -> set[str]:
    """The names of the entries, without those that are being written."""
    paths = (path for path in folder.glob("??/*") if path.suffix != ".tmp")
    return {path.parent.name + path.name for path in paths if path.is_file()}


@pytest.mark.parametrize("mode", MODES)
async def test_a_prefix_is_computed_before_it_is_asked_for(open_front: Any, mode: str) -> None:
    async with open_front(kv_mode=mode) as front:
        prefix = await create(front)
        same = await ask(front, PREFIX + "What does it sing?")
        other = await ask(front, PREFIX + "What does it sing?", tenant="bob")

    assert (prefix.name, prefix.tenant, prefix.model) == ("rules", "alice", "tiny:latest")
    assert 0 <= prefix.prompt_tokens - prefix.stored_tokens < 256
    assert prefix.bytes > 0
    assert same.cached_tokens >= prefix.stored_tokens - 16
    assert other.cached_tokens == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_prefix_outlives_the_engine_and_comes_back_with_its_model(
    open_front: Any, data: Path, mode: str
) -> None:
    """The store is lost, and with it what was computed."""
    async with open_front(kv_mode=mode) as front:
        prefix = await create(front)
    for path in (data / "kvcache").glob("??"):
        shutil.rmtree(path)

    async with open_front(kv_mode=mode) as front:
        assert await list_prefixes(front) == [_without_bytes(prefix)]
        await front.stub.Load(pb.LoadRequest(model="tiny"))
        await eventually(lambda: _is_stored(front, prefix))
        answer = await ask(front, PREFIX + "What does it sing?")

    assert answer.cached_tokens >= prefix.stored_tokens - 16


async def _is_stored(front: RunningFront, prefix: pb.Prefix) -> bool:
    (now,) = await list_prefixes(front)
    return now.bytes >= prefix.bytes


def _without_bytes(prefix: pb.Prefix) -> pb.Prefix:
    lost = pb.Prefix()
    lost.CopyFrom(prefix)
    lost.bytes = 0
    return lost


async def test_after_a_load_a_prefix_is_brought_from_the_disk_into_ram(
    open_front: Any, data: Path, tmp_path: Path
) -> None:
    ram = tmp_path / "shm"
    ram.mkdir()
    async with open_front() as front:
        await create(front)
    on_disk = entry_files(data / "kvcache")

    async with open_front(cache_ram="64M", cache_ram_folder=ram) as front:
        await front.stub.Load(pb.LoadRequest(model="tiny"))
        await eventually(lambda: entry_files(next(ram.iterdir())) >= on_disk)


async def test_pinned_entries_are_evicted_after_all_others(open_front: Any, data: Path) -> None:
    folder = data / "kvcache"
    async with open_front() as front:
        prefix = await create(front, text=LONG_PREFIX)
        pinned = entry_files(folder)
        await ask(front, "b" * 1500)
        await eventually(lambda: entry_files(folder) > pinned)
        others = entry_files(folder) - pinned

    async with open_front(cache_disk=str(int(prefix.bytes * 1.1)), cache_write="never") as front:
        await eventually(lambda: not entry_files(folder) & others)
        assert entry_files(folder) == pinned
        await front.stub.DeletePrefix(pb.DeletePrefixRequest(tenant="alice", name="rules"))
        assert await list_prefixes(front) == []

    async with open_front(cache_disk="1M", cache_write="never"):
        await eventually(lambda: entry_files(folder) < pinned)


async def test_who_pins_too_much_is_refused_and_nothing_is_kept(
    open_front: Any, data: Path
) -> None:
    async with open_front() as front:
        size = (await create(front, text=LONG_PREFIX)).bytes
        await front.stub.DeletePrefix(pb.DeletePrefixRequest(tenant="alice", name="rules"))
    async with open_front(cache_disk=str(size * 4), cache_pinned_share=0.3) as front:
        await create(front, text=LONG_PREFIX)
        own = await fail(create(front, "more", "x" + LONG_PREFIX))
        await create(front, text=LONG_PREFIX, tenant="bob")
        all_ = await fail(create(front, text=LONG_PREFIX, tenant="carol"))
        names = [(prefix.tenant, prefix.name) for prefix in await list_prefixes(front)]

    assert own["code"] == all_["code"] == "cache_share_exceeded"
    assert names == [("alice", "rules"), ("bob", "rules")]


async def test_a_key_creates_few_prefixes_at_once(open_front: Any) -> None:
    """Each is held in memory, and looked for in the store until all of it is there."""
    async with open_front() as front:
        many, few = await asyncio.gather(
            create_at_once(front, MAX_CREATING + 2, "many"), create_at_once(front, 1, "few")
        )
        later = await create_at_once(front, 1, "many")

    assert sorted(many, key=str) == [None] * MAX_CREATING + ["engine_busy"] * 2
    assert (few, later) == ([None], [None])


async def test_a_prefix_belongs_to_its_tenant(open_front: Any) -> None:
    async with open_front() as front:
        await create(front)
        seen = await list_prefixes(front, "bob")
        deletion = pb.DeletePrefixRequest(tenant="bob", name="rules")
        refused = await fail(front.stub.DeletePrefix(deletion))
        (own,) = await list_prefixes(front, "alice")

    assert (seen, refused["code"], own.name) == ([], "not_found", "rules")


@pytest.mark.parametrize("write", ["second_use", "never"])
async def test_the_write_policy_of_a_prefix(open_front: Any, write: str) -> None:
    """What is named is stored at its first use; where nothing is written, it is refused."""
    async with open_front(cache_write=write) as front:
        if write == "never":
            assert (await fail(create(front)))["code"] == "conflict"
        else:
            assert (await create(front)).stored_tokens >= 256


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("rules", "short", "invalid_request"),
        ("../rules", PREFIX, "invalid_request"),
        ("", PREFIX, "invalid_request"),
        ("n" * 65, PREFIX, "invalid_request"),
    ],
    ids=["short", "path", "empty", "long"],
)
async def test_what_cannot_be_a_prefix_is_refused(
    open_front: Any, name: str, text: str, code: str
) -> None:
    async with open_front() as front:
        error = await fail(create(front, name, text))
        assert await list_prefixes(front) == []

    assert error["code"] == code


async def test_without_a_store_there_are_no_prefixes(open_front: Any) -> None:
    async with open_front(cache_disk="off") as front:
        assert (await fail(create(front)))["code"] == "conflict"
        assert await list_prefixes(front) == []


async def test_the_prompt_of_a_prefix_is_nowhere_in_clear(
    open_front: Any, data: Path, redis_url: str
) -> None:
    async with open_front() as front:
        await create(front, "a-name-like-no-other")
        files = [path for path in data.rglob("*") if path.is_file() and "models" not in path.parts]
        contents = [path.read_bytes() + str(path).encode() for path in files]
        with redis.Redis.from_url(redis_url) as connection:
            contents += [connection.dump(key) or b"" for key in connection.keys("*")]

    assert len(contents) > 5
    for secret in (b"canary sings", b"a-name-like-no-other"):
        assert not [content for content in contents if secret in content]


async def test_with_its_tenants_keys_a_prefix_is_gone(open_front: Any, data: Path) -> None:
    async with open_front() as front:
        await create(front)
        await create(front, tenant="bob")
        for _ in range(6):  # more than old keys are kept
            await front.stub.RotateCacheKeys(pb.RotateCacheKeysRequest())
        rotated = await list_prefixes(front)
        await front.stub.DeleteCache(pb.DeleteCacheRequest(tenant="alice"))
        left = await list_prefixes(front)

    assert [prefix.tenant for prefix in rotated] == ["alice", "bob"]
    assert [prefix.tenant for prefix in left] == ["bob"]
    assert len(list((data / "kvcache" / "prefixes").iterdir())) == 1


@pytest.mark.parametrize("moment", ["loading", "computing", "pinning"])
async def test_keys_that_are_destroyed_while_a_prefix_is_created_take_it_with_them(
    open_front: Any, data: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    owner, name = {
        "loading": (ModelManager, "load_and_wait"),
        "computing": (LoadedModel, "locate"),
        "pinning": (PinnedPrefixes, "_check_share"),
    }[moment]
    waited = getattr(owner, name)

    async with open_front() as front:

        async def delete_after_it(*arguments: Any) -> Any:
            result = await waited(*arguments)
            monkeypatch.undo()
            await front.stub.DeleteCache(pb.DeleteCacheRequest(tenant="alice"))
            return result

        monkeypatch.setattr(owner, name, delete_after_it)
        error = await fail(create(front))

        assert error["code"] == "conflict"
        assert await list_prefixes(front) == []
        await eventually(lambda: not entry_files(data / "kvcache"))
        assert (await ask(front, PREFIX + "What does it sing?")).cached_tokens == 0
        assert not list((data / "kvcache" / "prefixes").iterdir())


async def test_a_prefix_of_a_model_that_was_replaced_is_outdated(
    open_front: Any, data: Path
) -> None:
    async with open_front() as front:
        await create(front)
    ModelStore(data / "models").delete("tiny:latest")

    async with open_front() as front:
        (prefix,) = await list_prefixes(front)

    assert prefix.is_outdated
