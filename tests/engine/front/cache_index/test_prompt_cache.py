"""Realms, keys and deletion, over real files and a real Redis."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.engine.core import CacheStored, CacheUsed
from services.engine.front.cache_index.build import build_prompt_cache
from services.engine.front.cache_index.prompt_cache import PromptCache
from services.engine.front.cache_index.tier_manager import TierManager
from services.engine.settings import EngineSettings
from tests.engine.front.cache_index.stored_files import list_names, store_entry

PRIVATE = b"p" * 32


def make_settings(data: Path, redis_url: str, **changes: object) -> EngineSettings:
    fields = {"data_dir": data, "redis_url": redis_url, "cache_disk": "1G"}
    return EngineSettings(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
async def cache(tmp_path: Path, redis_url: str) -> AsyncIterator[PromptCache]:
    cache = build_prompt_cache(make_settings(tmp_path, redis_url))
    cache.start()
    yield cache
    await cache.close()


async def test_realms_are_apart_by_tenant_and_private_key(cache: PromptCache) -> None:
    realms = [
        cache.open_realm(tenant, private)[0]
        for tenant in ("alice", "bob")
        for private in (b"", PRIVATE)
    ]

    assert len(set(realms)) == 4
    assert realms[0] == cache.open_realm("alice")[0]


async def test_a_running_engine_sweeps_what_killed_writers_left(
    tmp_path: Path, redis_url: str
) -> None:
    cache = build_prompt_cache(make_settings(tmp_path, redis_url))
    folders = (tmp_path / "kvcache" / "prefixes", tmp_path / "secrets" / "cache" / "tenants")
    drafts = [folder / f".{'ab' * 16}.{'cd' * 8}" for folder in folders]
    for draft in drafts:
        draft.write_bytes(b"sealed")
        os.utime(draft, (1000, 1000))
    cache.start()
    async with asyncio.timeout(30):
        while any(draft.exists() for draft in drafts):
            await asyncio.sleep(0.01)
    await cache.close()


async def test_a_deleted_tenant_begins_a_new_realm(cache: PromptCache, tmp_path: Path) -> None:
    realm, keys = cache.open_realm("alice")
    theirs = cache.open_realm("bob")[1]
    store_entry(tmp_path / "kvcache", keys[0].id)
    kept = store_entry(tmp_path / "kvcache", theirs[0].id)

    entries, size = await cache.delete(tenant="alice")

    assert (entries, size) == (1, 1116)
    assert list_names(tmp_path / "kvcache") == {kept}
    assert cache.open_realm("alice")[0] != realm


async def test_tiers_are_asked_at_the_same_time(tmp_path: Path, redis_url: str) -> None:
    """Each may wait for a Redis that does not answer, and the api does not wait for ever."""
    settings = make_settings(tmp_path, redis_url, cache_ram="10M", cache_ram_folder=tmp_path)
    cache = build_prompt_cache(settings)
    both = asyncio.Barrier(2)

    async def wait(*_: object) -> tuple[int, int]:
        await both.wait()
        return 1, 10

    for tier in cache._tiers.values():
        tier.read_status = tier.delete = wait  # type: ignore[method-assign, assignment]
    async with asyncio.timeout(30):
        assert len(await cache.read_status()) == 2
        assert await cache.delete(tenant="alice") == (2, 20)
    await cache.close()


async def test_what_is_read_in_ram_is_in_use_on_the_disk_too(
    tmp_path: Path, redis_url: str
) -> None:
    """Else the disk evicts what is used most, and it is lost with the RAM."""
    settings = make_settings(
        tmp_path, redis_url, cache_disk="1M", cache_ram="10M", cache_ram_folder=tmp_path
    )
    cache = build_prompt_cache(settings)
    id_ = cache.open_realm("alice")[1][0].id

    async def store() -> str:
        folder = tmp_path / "kvcache"
        name = store_entry(folder, id_, payload_bytes=100_000, unused_seconds=5000)
        cache.note([CacheStored(name, id_, "disk", "block", 100_116, 256, 1.0)])
        await cache._for_each_tier(TierManager.update)
        return name

    used = await store()
    for _ in range(30):
        await store()
        cache.note([CacheUsed(used, "ram", 100_116, 1.0)])
        await cache._for_each_tier(TierManager.update)

    assert used in list_names(tmp_path / "kvcache")
    await cache.delete(older_than_seconds=1000)
    assert list_names(tmp_path / "kvcache") == {used}
    counts = {status.tier: status.counts for status in await cache.read_status()}
    assert {tier: count.hits for tier, count in counts.items()} == {"ram": 30, "disk": 0}
    assert {tier: count.saved_seconds for tier, count in counts.items()} == {"ram": 30, "disk": 0}
    await cache.close()


async def test_deleting_all_begins_new_realms_with_new_keys(
    cache: PromptCache, tmp_path: Path
) -> None:
    before = {tenant: cache.open_realm(tenant) for tenant in ("alice", "bob")}
    for _, keys in before.values():
        store_entry(tmp_path / "kvcache", keys[0].id)

    assert (await cache.delete())[0] == 2
    for tenant, (realm, keys) in before.items():
        new_realm, new_keys = cache.open_realm(tenant)
        assert new_realm != realm
        assert not {key.secret for key in keys} & {key.secret for key in new_keys}


async def test_deletion_by_model_and_age_keeps_the_keys(cache: PromptCache, tmp_path: Path) -> None:
    folder = tmp_path / "kvcache"
    realm, keys = cache.open_realm("alice")
    id_ = keys[0].id
    store_entry(folder, id_, model_digest="sha256:old")
    store_entry(folder, id_, unused_seconds=5000)
    fresh = store_entry(folder, id_)

    assert (await cache.delete(model_digest="sha256:old"))[0] == 1
    assert (await cache.delete(tenant="alice", older_than_seconds=1000))[0] == 1
    assert list_names(folder) == {fresh}
    assert cache.open_realm("alice")[0] == realm


async def test_new_keys_seal_and_the_older_ones_stay(cache: PromptCache) -> None:
    old = cache.open_realm("alice")[1]
    cache.rotate_keys("alice")

    new = cache.open_realm("alice")[1]
    assert new[1:] == old
    assert new[0] not in old


async def test_without_the_cache_realms_are_tenants(tmp_path: Path, redis_url: str) -> None:
    off = build_prompt_cache(make_settings(tmp_path, redis_url, cache_disk="off"))

    assert off.open_realm("alice") == ("alice", ())
    assert off.open_realm("alice", PRIVATE)[0] != "alice"
    assert off.build_config("sha256:m") is None
    assert await off.delete(tenant="alice") == (0, 0)
    assert not (tmp_path / "kvcache").exists()


async def test_a_runner_gets_the_folders_and_the_policy(tmp_path: Path, redis_url: str) -> None:
    ram = tmp_path / "shm"
    settings = make_settings(
        tmp_path, redis_url, cache_ram="10M", cache_ram_folder=ram, cache_write="second_use",
        cache_min_free="3M",
    )  # fmt: skip
    cache = build_prompt_cache(settings)
    config = cache.build_config("sha256:m")
    await cache.close()

    assert config is not None
    assert config.model_digest == "sha256:m"
    assert config.disk_folder == str(tmp_path / "kvcache")
    assert config.ram_folder is not None
    assert Path(config.ram_folder).parent == ram
    assert Path(config.ram_folder).stat().st_mode & 0o077 == 0
    assert (config.write, config.min_free_bytes) == ("second_use", 3 << 20)


@pytest.mark.skipif("__import__('os').geteuid() == 0", reason="root may write everywhere")
async def test_a_folder_that_cannot_be_used_turns_the_cache_off(
    tmp_path: Path, redis_url: str
) -> None:
    (tmp_path / "kvcache").mkdir(mode=0o500)

    assert build_prompt_cache(make_settings(tmp_path, redis_url)).build_config("x") is None


async def test_a_file_in_the_place_of_the_folder_turns_the_cache_off(
    tmp_path: Path, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kvcache").write_text("not a folder")

    assert build_prompt_cache(make_settings(tmp_path, redis_url)).build_config("x") is None
    assert "prompts are not stored" in caplog.text


@pytest.mark.parametrize("text", ["", "-1G", "much", "0.5K"])
def test_a_size_that_is_none_is_refused_by_name(tmp_path: Path, redis_url: str, text: str) -> None:
    with pytest.raises(ValueError, match="write 'off', 'auto', a share"):
        make_settings(tmp_path, redis_url, cache_disk=text)


async def test_runners_leave_a_part_of_the_tmpfs_to_others(tmp_path: Path, redis_url: str) -> None:
    """Also when the front evicts too late: then they stop at a quarter above the budget."""
    total = shutil.disk_usage(tmp_path).total
    for ram, budget in (("100M", 100_000_000), (str(4 * total), total * 0.75)):
        settings = make_settings(tmp_path, redis_url, cache_ram=ram, cache_ram_folder=tmp_path)
        cache = build_prompt_cache(settings)
        config = cache.build_config("sha256:model")
        (status, _) = await cache.read_status()
        await cache.close()

        assert config is not None
        assert config.ram_max_bytes is not None
        assert status.budget_bytes == pytest.approx(budget, rel=0.05)
        assert config.ram_max_bytes == pytest.approx(1.25 * status.budget_bytes, rel=0.01)
        assert config.ram_max_bytes < total
