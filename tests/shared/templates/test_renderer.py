"""Templates run in processes that are killed at their limits, and take nothing else with them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.shared.errors import InvalidModelFile, InvalidRequest, Unavailable
from services.shared.templates import sandbox
from services.shared.templates.renderer import TemplateRenderer
from services.shared.templates.renderer_process import RenderLimits
from services.shared.templates.traits import RESERVED_NAMES
from tests.conftest import ROOT
from tests.shared.templates.hostile import HOSTILE
from tests.waiting import is_running, until

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
TOOLS = "{{ tools | tojson if tools else '' }}" + PLAIN
ENDLESS = (
    "{% if strike is defined %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endif %}" + PLAIN
)
IS_LINUX = sys.platform == "linux"


def build_variables(content: str = "hi", **more: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": content}], **more})


@pytest.fixture
def renderer() -> Iterator[TemplateRenderer]:
    with TemplateRenderer(RenderLimits(cpu_seconds=0.5, wall_seconds=60)) as made:
        yield made


@pytest.fixture(scope="module")
def hostile_ends() -> dict[str, Any]:
    """How the hostile templates end; in a process whose peak of memory is its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared.templates.hostile"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=110,
    )
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(not IS_LINUX, reason="macOS does not limit memory")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_with_a_clear_error(
    name: str, hostile_ends: dict[str, Any]
) -> None:
    kind, _, message = hostile_ends["ends"][name].partition(": ")

    assert kind == "InvalidModelFile"
    assert message.startswith("the model's chat template ")


def test_hostile_templates_cost_their_parent_little_memory(hostile_ends: dict[str, Any]) -> None:
    assert hostile_ends["grown_bytes"] <= 64 << 20


def test_a_template_is_rendered(renderer: TemplateRenderer) -> None:
    template = renderer.open(TOOLS)

    assert template.traits is not None
    assert template.traits.tools
    assert (
        renderer.render(template, build_variables("h\u00e9 \U0001f600"))
        == "user: h\u00e9 \U0001f600\n"
    )


def test_numbers_and_text_arrive_as_they_are(renderer: TemplateRenderer) -> None:
    template = renderer.open("{{ messages[0].content }}{{ x | tojson if x is defined }}")
    values = {"big": 10**40, "float": 1e300, "none": None, "deep": [[[{"a": -0.5}]]]}

    assert renderer.render(template, build_variables(x=values)) == "hi" + json.dumps(values)


def test_a_process_is_replaced_after_its_end(renderer: TemplateRenderer) -> None:
    template = renderer.open(ENDLESS)
    with pytest.raises(InvalidModelFile, match=r"takes more than 0\.5 s of processor time"):
        renderer.render(template, build_variables(strike=True))

    assert renderer.render(template, build_variables()) == "user: hi\n"


def test_an_idle_process_that_was_killed_is_replaced(renderer: TemplateRenderer) -> None:
    template = renderer.open(PLAIN)
    (process,) = renderer._idle
    os.kill(process.pid, signal.SIGKILL)
    psutil.Process(process.pid).wait(10)

    assert renderer.render(template, build_variables()) == "user: hi\n"


def test_a_template_that_keeps_exceeding_its_limits_is_refused_at_once(
    renderer: TemplateRenderer,
) -> None:
    template = renderer.open(ENDLESS)
    for _ in range(3):
        with pytest.raises(InvalidModelFile, match="processor time"):
            renderer.render(template, build_variables(strike=True))

    with pytest.raises(InvalidModelFile, match="refused for a minute"):
        renderer.render(template, build_variables())
    assert renderer.render(renderer.open(PLAIN), build_variables()) == "user: hi\n"


def test_a_long_conversation_is_the_fault_of_its_sender(renderer: TemplateRenderer) -> None:
    template = renderer.open(ENDLESS)
    for _ in range(4):
        with pytest.raises(InvalidRequest, match="the conversation is too long") as caught:
            renderer.render(template, build_variables("x" * 20_000, strike=True))
        assert caught.value.param == "messages"

    assert renderer.render(template, build_variables()) == "user: hi\n"


def test_a_conversation_beyond_every_context_is_refused(renderer: TemplateRenderer) -> None:
    with pytest.raises(InvalidRequest, match="too long"):
        renderer.render(renderer.open(PLAIN), build_variables("x" * (16 << 20)))
    with pytest.raises(InvalidRequest, match="too long"):
        renderer.render(renderer.open(PLAIN), build_variables("x" * (9 << 20)))


def test_others_are_rendered_beside_an_endless_template() -> None:
    with (
        TemplateRenderer(RenderLimits(cpu_seconds=600, wall_seconds=600)) as renderer,
        ThreadPoolExecutor(1) as pool,
    ):
        endless = renderer.open(ENDLESS)
        stuck = pool.submit(renderer.render, endless, build_variables(strike=True))
        until(lambda: bool(renderer._busy))

        assert renderer.render(renderer.open(PLAIN), build_variables()) == "user: hi\n"
        assert not stuck.done()

        renderer.close()
        with pytest.raises(Unavailable):
            stuck.result(30)


def test_renders_of_many_threads_do_not_mix(renderer: TemplateRenderer) -> None:
    template = renderer.open(PLAIN)

    def render(number: int) -> str:
        return renderer.render(template, build_variables(f"number {number}"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(render, range(200))) == [f"user: number {n}\n" for n in range(200)]


@pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
def test_a_probe_that_a_busy_machine_delays_is_not_remembered() -> None:
    with TemplateRenderer(RenderLimits(wall_seconds=5)) as renderer:
        renderer.open(PLAIN)
        (process,) = renderer._idle
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="busy"):
            renderer.open(TOOLS)

        traits = renderer.open(TOOLS).traits

    assert traits is not None
    assert traits.tools


@pytest.mark.skipif(not IS_LINUX, reason="stops a process before it is asked")
def test_a_template_is_not_blamed_for_a_process_that_the_system_kills(
    renderer: TemplateRenderer,
) -> None:
    template = renderer.open(PLAIN)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(4):
            (process,) = renderer._idle
            os.kill(process.pid, signal.SIGSTOP)
            render = pool.submit(renderer.render, template, build_variables())
            until(lambda: renderer._busy)
            os.kill(process.pid, signal.SIGKILL)
            with pytest.raises(Unavailable, match="out of memory"):
                render.result()
            assert renderer.render(template, build_variables()) == "user: hi\n"


def test_a_template_that_cannot_be_compiled_is_remembered(renderer: TemplateRenderer) -> None:
    template = renderer.open("{% for")
    renderer.close()  # no process is left that could try again

    assert renderer.open("{% for") is template
    assert template.traits is not None
    assert "not valid Jinja" in str(template.traits.failure)
    with pytest.raises(InvalidModelFile, match="not valid Jinja"):
        renderer.render(template, build_variables())


def test_people_s_text_is_neither_in_the_error_nor_in_the_log(
    renderer: TemplateRenderer, caplog: pytest.LogCaptureFixture
) -> None:
    source = "{{ messages[0].content }}\n{{ {'a': 1}[messages[0].content].x if strike is defined }}"
    template = renderer.open(source)
    with caplog.at_level(logging.DEBUG), pytest.raises(InvalidModelFile) as caught:
        renderer.render(template, build_variables("my secret diary", strike=True))

    (record,) = caplog.records
    assert vars(record)["template"] == template.digest
    assert (vars(record)["line"], vars(record)["error"]) == (2, "UndefinedError")
    assert "secret" not in caught.value.message + str([vars(r) for r in caplog.records])
    assert caught.value.message.endswith("failed in line 2 (UndefinedError)")


@pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
def test_a_process_inherits_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPINDLL_HF_TOKEN", "hf_secret")
    with (tmp_path / "key").open("w") as key, TemplateRenderer() as renderer:
        os.set_inheritable(key.fileno(), True)
        renderer.open(PLAIN)
        (process,) = renderer._idle
        proc = Path(f"/proc/{process.pid}")
        environment = (proc / "environ").read_bytes()
        files = {str(link.readlink()) for link in (proc / "fd").iterdir()}
        limits = (proc / "limits").read_text()

    assert b"SPINDLL" not in environment
    our_errors = str(Path("/proc/self/fd/2").readlink())  # the process writes its own there
    assert {f for f in files if not f.startswith("socket:")} <= {"/dev/null", our_errors}
    assert len([file for file in files if file.startswith("socket:")]) == 1
    wanted = {"Max open files": "0", "Max processes": "0", "Max address space": str(256 << 20)}
    found = {line[:26].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert {name: found[name] for name in wanted} == wanted


def test_a_process_ends_with_its_parent() -> None:
    script = (
        "import os, services.shared.templates.renderer as r;"
        "t = r.TemplateRenderer(); t.open('{{ messages[0].content }}');"
        "print(t._idle[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    pid = int(done.stdout)

    until(lambda: not psutil.pid_exists(pid) or not is_running(psutil.Process(pid)))


def test_after_close_nothing_is_left(renderer: TemplateRenderer) -> None:
    renderer.open(PLAIN)
    (process,) = renderer._idle

    renderer.close()

    assert not psutil.pid_exists(process.pid)
    with pytest.raises(Unavailable):
        renderer.open(TOOLS)


def test_the_names_that_a_client_cannot_set_are_those_of_the_environment() -> None:
    assert set(sandbox._immutable_environment.globals) <= RESERVED_NAMES
