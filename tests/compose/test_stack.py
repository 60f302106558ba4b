"""The appliance in real containers, with images built from this tree."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator

import grpc
import pytest

from protos import spindll_pb2, spindll_pb2_grpc
from tests.compose.conftest import ROOT
from tests.compose.stack import BUILD_SECONDS, Stack, copy_context, docker, find_wheel
from tests.waiting import until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(BUILD_SECONDS)]

QUESTION = "What is the capital of France?"
ANSWER = "Paris."
CONNECT_TO_REDIS = (
    "from pathlib import Path\n"
    "from services.shared.redis.redis_client import connect\n"
    "redis = connect('redis://puller@redis:6379/0', Path('/data/redis-secret/password'))\n"
)
KEPT = "spindll:pull_bytes:1"  # a key that this user may set


@pytest.fixture(scope="module")
def stack(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    wheel = find_wheel()
    if wheel is None:
        pytest.skip("no llama-cpp-python wheel in wheels/ or PIP_FIND_LINKS, and compiling is slow")
    folder = tmp_path_factory.mktemp("tree")
    copy_context(wheel, folder)
    stack = Stack(folder)
    try:
        stack.run("build", "--quiet", timeout_seconds=BUILD_SECONDS)
        stack.up()
        yield stack
    finally:
        stack.down()


def test_a_chat_succeeds_when_up_returns(stack: Stack) -> None:
    assert stack.ask(QUESTION) == ANSWER


def test_the_published_grpc_port_accepts_the_same_key(stack: Stack) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{stack.grpc_port}") as channel:
        listed = spindll_pb2_grpc.SpindllStub(channel).List(
            spindll_pb2.ListRequest(),
            metadata=(("authorization", f"Bearer {stack.user_key()}"),),
            timeout=30,
        )

    assert any("tiny" in model.name for model in listed.models)


def test_the_api_stays_healthy_without_the_engine_and_a_started_one_answers_again(
    stack: Stack,
) -> None:
    """Otherwise proxies would take the api away, with its 503 and Retry-After."""
    # Each process of the api checks readiness at most once a second, so that one of them may still
    # answer as before the stop when another one does not.
    check = (
        "for i in 1 2 3 4 5 6 7 8 9; do check-http api 8080 /ready || break; sleep 1; done; sleep 2;"
        " check-http api 8080 /ready; echo $?; check-http api 8080 /health; echo $?"
    )
    stack.run("stop", "engine")
    ready, health = stack.run("exec", "-T", "ready", "sh", "-c", check).split()[-2:]
    stack.run("start", "engine")

    assert (ready, health) == ("1", "0")
    assert stack.ask_until_answered(QUESTION) == ANSWER


def test_a_killed_engine_is_started_again(stack: Stack) -> None:
    before = stack.inspect("engine")["RestartCount"]
    stack.kill_main_process("engine")

    assert stack.ask_until_answered(QUESTION) == ANSWER
    assert stack.inspect("engine")["RestartCount"] == before + 1


def test_the_data_of_redis_survives_a_restart(stack: Stack) -> None:
    stack.python("puller", CONNECT_TO_REDIS + f"redis.set({KEPT!r}, 'yes', ex=600)")
    stack.run("restart", "redis")

    # Not `up --wait`, which gives up on a container that is unhealthy at that moment.
    def read() -> str:
        try:
            return stack.python("puller", CONNECT_TO_REDIS + f"print(redis.get({KEPT!r}))")
        except AssertionError:  # Redis reads its file
            return ""

    assert until(read, "Redis does not answer again") == "b'yes'"
    assert stack.ask_until_answered(QUESTION) == ANSWER


def test_redis_refuses_a_client_without_the_password(stack: Stack) -> None:
    output = stack.python(
        "api",
        "import redis\n"
        "try: redis.Redis(host='redis').ping()\n"
        "except redis.AuthenticationError as error: print('refused')",
    )

    assert output == "refused"


@pytest.mark.parametrize("service", ["api", "engine", "puller"])
def test_a_service_has_no_capabilities_and_writes_only_to_its_volumes_and_tmp(
    stack: Stack, service: str
) -> None:
    output = stack.python(
        service,
        "import os, pathlib, json\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status'))\n"
        "def writable(place):\n"
        "    try: probe = pathlib.Path(place, '.probe'); probe.touch(); probe.unlink(); return True\n"
        "    except OSError: return False\n"
        "places = ['/', '/opt/spindll', '/opt/venv', '/data', '/data/models', '/tmp']\n"
        "print(json.dumps([os.getuid(), int(status['CapEff'], 16), int(status['CapBnd'], 16),\n"
        "    status['NoNewPrivs'].strip(), [place for place in places if writable(place)]]))",
    )

    writable = ["/tmp"] if service == "engine" else ["/data/models", "/tmp"]
    assert json.loads(output) == [10001, 0, 0, "1", writable]


@pytest.mark.parametrize("service", ["api", "engine", "puller", "redis"])
def test_only_the_puller_joins_a_network_with_a_route_outside(stack: Stack, service: str) -> None:
    joined = stack.inspect(service)["NetworkSettings"]["Networks"]
    networks_outside = []
    for name in joined:
        [network] = json.loads(docker("network", "inspect", name))
        option = network["Options"].get("com.docker.network.bridge.enable_ip_masquerade", "true")
        if not network["Internal"] and option != "false":
            networks_outside.append(name.removeprefix(stack.project + "_"))

    assert networks_outside == (["egress"] if service == "puller" else [])


# ---- what the networks let through

# In TEST-NET-2, which no network uses: a computer on the other side of the host.
HOST_ADDRESS, OUTSIDE_ADDRESS = "198.51.100.1", "198.51.100.2"
CONNECT = (
    "import socket\n"
    f"try: socket.create_connection(('{OUTSIDE_ADDRESS}', 8000), 3).recv(5); print('connected')\n"
    "except OSError: print('no connection')"
)
SERVE = (
    "import socket\n"
    f"listener = socket.create_server(('{OUTSIDE_ADDRESS}', 8000))\n"
    "print('listening', flush=True)\n"
    "while True: listener.accept()[0].sendall(b'hello')"
)


@pytest.fixture
def outside(stack: Stack) -> Iterator[None]:
    """A server that the host reaches directly, but that has no route to the containers."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root can make a network namespace")
    name = f"out{uuid.uuid4().hex[:8]}"
    ip("netns", "add", name)
    try:
        ip("link", "add", name, "type", "veth", "peer", "name", "inside", "netns", name)
        ip("address", "add", f"{HOST_ADDRESS}/24", "dev", name)
        ip("link", "set", name, "up")
        ip("-n", name, "address", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "inside")
        ip("-n", name, "link", "set", "inside", "up")
        command = ["ip", "netns", "exec", name, sys.executable, "-c", SERVE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "listening\n"
            yield
            server.kill()
    finally:
        ip("netns", "delete", name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=30)


def test_only_the_puller_can_call_out(stack: Stack, outside: None) -> None:
    """The api is on `front`, whose bridge leads to the host, but gets no answer from beyond it."""
    results = {name: stack.python(name, CONNECT) for name in ("api", "engine", "puller")}

    assert results == {
        "api": "no connection",
        "engine": "no connection",
        "puller": "connected",
    }


def test_the_api_resolves_the_names_of_services_and_no_others(stack: Stack) -> None:
    """A name can carry data out, so the resolver must not pass names on."""
    code = (
        "import os, socket\n"
        "os.environ['RES_OPTIONS'] = 'timeout:1 attempts:1'\n"
        "def resolve(name):\n"
        "    try: return bool(socket.getaddrinfo(name, 80))\n"
        "    except socket.gaierror: return False\n"
        "print([resolve('redis'), resolve('engine'), resolve('example.org')])"
    )

    assert stack.python("api", code) == "[True, True, False]"


def test_an_image_contains_only_the_code_of_its_service(stack: Stack) -> None:
    code = "import pathlib; print(sorted(p.name for p in pathlib.Path('services').iterdir() if p.is_dir()))"
    folders_by_service = {name: stack.python(name, code) for name in ("api", "engine", "puller")}

    assert all("'shared'" in folders for folders in folders_by_service.values())
    for name, folders in folders_by_service.items():
        assert [other for other in folders_by_service if f"'{other}'" in folders] == [name]


def read_commands(heading: str) -> str:
    """The commands of a section of the page on backups."""
    page = (ROOT / "docs" / "guide" / "backup.md").read_text()
    section = page[page.index(f"## {heading}\n") :].split("\n## ")[0]
    return "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))


def test_new_containers_keep_every_secret_and_a_backup_brings_keys_and_jobs_back(
    stack: Stack,
) -> None:
    read = "cat /data/secrets/*.key /data/redis-secret/*"
    key, secrets = stack.user_key(), stack.run("exec", "-T", "api", "sh", "-c", read)
    stack.python("puller", CONNECT_TO_REDIS + f"redis.set({KEPT!r}, 'yes', ex=600)")

    stack.run_shell(read_commands("Containers: back up"))
    assert stack.run("exec", "-T", "api", "sh", "-c", read) == secrets

    stack.run("down", "--volumes")
    stack.run_shell(read_commands("Containers: restore"))
    assert stack.user_key() == key
    assert stack.python("puller", CONNECT_TO_REDIS + f"print(redis.get({KEPT!r}))") == "b'yes'"
    assert stack.ask_until_answered(QUESTION) == ANSWER


def test_down_removes_containers_networks_and_volumes(stack: Stack) -> None:
    """Must be the last test of this file, because it stops the stack."""
    assert stack.list_resources()

    stack.down()

    assert stack.list_resources() == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", stack.port), timeout=5)
