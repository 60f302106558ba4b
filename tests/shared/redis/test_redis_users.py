"""Each service reaches its own keys in a real Redis, and nothing else."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from services.api.access.key_files import KeyFiles
from services.api.access.key_manager import KeyManager
from services.api.access.keys import KeyStore, Role, hash_key
from services.puller.build import build_job_runner
from services.puller.maintenance import Maintenance
from services.puller.settings import PullerSettings
from services.puller.worker import build_worker
from services.shared.pulls.commands import JobCommands
from services.shared.pulls.job import JobState
from services.shared.pulls.job_queue import JobQueue
from services.shared.pulls.job_store import JobStore, new_job
from services.shared.redis import redis_keys, redis_users
from services.shared.redis.redis_client import connect, connect_async
from services.shared.store.model_store import ModelStore
from tests.conftest import RedisServer

SERVICES = ["api", "puller", "engine"]


class GuardedRedis:
    """A Redis with the users of the services, and one more for the test."""

    def __init__(self, folder: Path) -> None:
        self.users = folder / "users"
        redis_users.write_users(self.users)
        acl = self.users / "redis" / "users.acl"
        acl.write_text(acl.read_text() + "user test on nopass ~* &* +@all\n")
        self.server = RedisServer(folder, "--aclfile", str(acl))
        self.test = redis.Redis.from_url(self.url("test", "x"))

    def url(self, user: str, password: str = "") -> str:
        credentials = f"{user}:{password}" if password else user
        return self.server.url.replace("unix://", f"unix://{credentials}@")

    def password_file(self, user: str) -> Path:
        return self.users / user / "password"

    def client(self, user: str) -> redis.Redis:
        return connect(self.url(user), self.password_file(user))

    def denied(self) -> list[tuple[str, str]]:
        """The commands and keys that were denied so far."""
        entries = cast("list[dict[str, Any]]", self.test.acl_log())
        return [(str(entry["username"]), str(entry["object"])) for entry in entries]


@pytest.fixture(scope="module")
def guarded() -> Iterator[GuardedRedis]:
    with tempfile.TemporaryDirectory(prefix="spd-") as folder:
        guarded = GuardedRedis(Path(folder))
        yield guarded
        guarded.test.close()
        guarded.server.stop()


@pytest.fixture(autouse=True)
def _without_earlier_denials(guarded: GuardedRedis) -> None:
    guarded.test.flushall()
    guarded.test.acl_log_reset()


def test_the_default_user_is_off(guarded: GuardedRedis) -> None:
    with redis.Redis.from_url(guarded.server.url) as stranger, pytest.raises(redis.RedisError):
        stranger.ping()


def test_a_transaction_survives_a_restart(tmp_path: Path) -> None:
    """Redis reads its append-only file as the default user, who may log in nowhere."""
    with tempfile.TemporaryDirectory(prefix="spd-") as folder:
        redis_users.write_users(tmp_path)
        acl = tmp_path / "redis" / "users.acl"
        arguments = ["--aclfile", str(acl), "--appendonly", "yes", "--appendfsync", "always"]
        password = (tmp_path / "api" / "password").read_text().strip()
        for is_restarted in (False, True):
            server = RedisServer(Path(folder), *arguments)
            url = server.url.replace("unix://", f"unix://api:{password}@")
            with redis.Redis.from_url(url) as client:
                if not is_restarted:
                    with client.pipeline(transaction=True) as pipeline:
                        pipeline.hset(redis_keys.pull("1"), "state", "queued")
                        pipeline.sadd(redis_keys.PULLS_ACTIVE, "1")
                        pipeline.execute()
                found = client.hget(redis_keys.pull("1"), "state")
            server.stop()

    assert found == b"queued"


@pytest.mark.parametrize("user", SERVICES)
@pytest.mark.parametrize("other", SERVICES)
def test_every_service_has_a_password_of_its_own(
    guarded: GuardedRedis, user: str, other: str
) -> None:
    with connect(guarded.url(user), guarded.password_file(other)) as client:
        if user == other:
            assert client.ping()
        else:
            with pytest.raises(redis.AuthenticationError):
                client.ping()


def test_the_health_user_may_ping_and_nothing_else(guarded: GuardedRedis) -> None:
    with connect(guarded.url("health"), guarded.password_file("redis")) as client:
        assert client.execute_command("PING")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("x")


FORBIDDEN = {
    "engine adds an API key": ("engine", ["hset", redis_keys.API_KEYS, "h", "{}"]),
    "engine reads the API keys": ("engine", ["hgetall", redis_keys.API_KEYS]),
    "engine marks an API key as used": ("engine", ["hset", redis_keys.API_KEYS_USED, "k", "1"]),
    "puller reads the uses of API keys": ("puller", ["hgetall", redis_keys.API_KEYS_USED]),
    "engine queues a download": ("engine", ["rpush", "rq:queue:pulls", "x"]),
    "engine writes a job": ("engine", ["hset", redis_keys.pull("x"), "state", "1"]),
    "engine publishes": ("engine", ["publish", redis_keys.SEARCHES, "x"]),
    "puller adds an API key": ("puller", ["hset", redis_keys.API_KEYS, "h", "{}"]),
    "puller reads the cache index": ("puller", ["get", "spindll:kv:x"]),
    "api writes the cache index": ("api", ["set", "spindll:kv:x", "y"]),
    "api commands the workers": ("api", ["publish", "rq:pubsub:w", "x"]),
    **{
        f"{user}: {' '.join(command)}": (user, command)
        for user in SERVICES
        for command in (
            ["flushall"],
            ["keys", "*"],
            ["scan", "0"],
            ["config", "get", "*"],
            ["acl", "list"],
            ["client", "list"],
            ["script", "flush"],
            ["debug", "sleep", "0"],
            ["eval", "return redis.call('get', 'elsewhere')", "0"],
        )
    },
}


@pytest.mark.parametrize(("user", "command"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_it_is_denied(guarded: GuardedRedis, user: str, command: list[str]) -> None:
    with guarded.client(user) as client, pytest.raises(redis.ResponseError) as denied:
        client.execute_command(*command)

    reason = str(denied.value).lower()
    assert "permission" in reason or "can't access" in reason, reason


def test_the_engine_may_use_the_keys_of_its_cache_index(guarded: GuardedRedis) -> None:
    with guarded.client("engine") as client:
        client.hset("spindll:kv:block", mapping={"bytes": 1})
        client.expire("spindll:kv:block", 10)
        with client.pipeline() as pipe:
            pipe.hgetall("spindll:kv:block").delete("spindll:kv:block").execute()
        client.register_script("return redis.call('set', KEYS[1], 'x')")(keys=["spindll:kv:a"])

    assert guarded.denied() == []


async def test_the_api_may_do_its_work(guarded: GuardedRedis) -> None:
    connection = connect_async(guarded.url("api"), guarded.password_file("api"))
    store = KeyStore(connection, cache_seconds=0)
    assert await store.find(hash_key("x")) is None
    manager = KeyManager(connection, KeyFiles(guarded.users))
    key, _ = await manager.create("alice", role=Role.USER, tenant="", expires_in_seconds=None)
    assert await store.find(key.hash) == key
    await store.find(key.hash)  # saves the use
    assert [listed.key for listed in await manager.list() if listed.last_used_at] == [key]
    await manager.revoke(key.id)
    await connection.ping()
    await connection.publish(redis_keys.SEARCHES, b"{}")
    await connection.blpop([redis_keys.search_answer("q")], timeout=0.01)
    await connection.aclose()
    with guarded.client("api") as client:
        jobs, queue = JobStore(client), JobQueue(client)
        commands = JobCommands(client, jobs)
        job, _ = commands.create(new_job("other:latest"), idempotency="key\nonce")
        queue.send(job)
        queue.reorder(commands.set_priority(job.id, 3))
        commands.pause(job.id)
        queue.send(commands.resume(job.id))
        commands.cancel(job.id)
        queue.send(commands.retry(job.id))
        commands.cancel(job.id)
        assert jobs.find_loading_job("other:latest") is None
        assert [found.id for found in jobs.find()] == [job.id]
        commands.forget(job.id)

    assert guarded.denied() == []


def test_the_puller_may_do_its_work(
    guarded: GuardedRedis, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    settings = PullerSettings(data_dir=tmp_path, allowed_sources="hf.co")  # so that a pull fails
    with guarded.client("puller") as client:
        store, queue = JobStore(client), JobQueue(client)
        job, _ = JobCommands(client, store).create(new_job("other:latest"))
        queue.send(job)
        build_worker(client, build_job_runner(settings, client)).work(burst=True)
        assert store.get(job.id).state is JobState.FAILED
        client.incrby(redis_keys.pull_bytes(1), 5)
        client.set(redis_keys.search_claim("q"), "taken", nx=True, ex=60)
        client.rpush(redis_keys.search_answer("q"), b"{}")
        with client.pubsub() as channel:
            channel.subscribe(redis_keys.SEARCHES)
            assert channel.get_message(timeout=5)
        Maintenance(store, queue, ModelStore(settings.models_dir), max_attempts=5).requeue_jobs(
            set()
        )

    assert guarded.denied() == []
    assert not [warning for warning in recwarn if "not supported" in str(warning.message)]


def test_passwords_are_kept_and_redis_gets_only_their_hashes(tmp_path: Path) -> None:
    redis_users.write_users(tmp_path)
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    redis_users.write_users(tmp_path)

    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before
    passwords = [text for path, text in before.items() if path.name == "password"]
    assert len(set(passwords)) == len(passwords) == 4
    acl = (tmp_path / "redis" / "users.acl").read_text()
    assert not any(password in acl for password in passwords)
    assert {stat.S_IMODE(path.stat().st_mode) for path in before} == {0o640}
