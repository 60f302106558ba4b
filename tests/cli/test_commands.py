"""The output of the commands for responses of the api, and for a missing one."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from services.cli import formatting
from services.cli.api_client import ApiClient, model_path
from services.cli.app import app
from services.cli.commands.models import format_details, format_loaded_row, format_row
from services.cli.commands.pull import progress_rows
from services.cli.commands.run import build_request, delta_text, run
from services.cli.connection import Connection, find_connection
from services.cli.errors import CommandError
from services.cli.options import StackOptions
from services.cli.paths import StackPaths
from services.cli.supervise import state_file
from tests.waiting import free_port


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_265_056, "2.3 MB"), (4e12, "4.0 TB")],
)
def test_a_size_has_decimal_units(size_bytes: float, expected: str) -> None:
    assert formatting.format_size(size_bytes) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(3, "3 s"), (150, "2 min"), (10_000, "2 h"), (400_000, "4 d")]
)
def test_a_duration_has_one_unit(seconds: float, expected: str) -> None:
    assert formatting.format_duration(seconds) == expected


def test_the_environment_is_preferred_to_the_data_directory(tmp_path: Path) -> None:
    environment = {"SPINDLL_URL": "http://box:8080/v1/", "SPINDLL_API_KEY": "sk-x"}

    assert find_connection(StackPaths(tmp_path), environment) == Connection(
        "http://box:8080", "sk-x"
    )


def test_a_connection_never_shows_its_key() -> None:
    assert "sk-x" not in repr(Connection("http://box", "sk-x"))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[StackPaths]:
    """A data directory whose lock and state file say that its stack runs."""
    paths = StackPaths(tmp_path)
    paths.make_dirs()
    state_file.save(paths, state_file.initial_state(StackOptions(data_dir=tmp_path, port=8081)))
    lock = state_file.take_lock(paths)
    assert lock is not None
    yield paths
    os.close(lock)


def test_the_admin_key_is_preferred_to_the_user_key(running: StackPaths) -> None:
    running.user_key.parent.mkdir()
    running.user_key.write_text("sk-user\n")
    assert find_connection(running, {}) == Connection("http://127.0.0.1:8081", "sk-user")
    running.admin_key.write_text("sk-admin\n")

    assert find_connection(running, {}).key == "sk-admin"


def test_another_stack_never_gets_a_key_of_the_local_files(running: StackPaths) -> None:
    running.admin_key.parent.mkdir()
    running.admin_key.write_text("sk-admin\n")

    with pytest.raises(CommandError, match="SPINDLL_API_KEY"):
        find_connection(running, {"SPINDLL_URL": "http://other.example"})


def test_the_key_of_another_stack_is_not_sent_to_the_local_one(running: StackPaths) -> None:
    running.admin_key.parent.mkdir()
    running.admin_key.write_text("sk-admin\n")

    assert find_connection(running, {"SPINDLL_API_KEY": "sk-other"}).key == "sk-admin"


def test_the_error_without_a_stack_has_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="start it with `up --detach`"):
        find_connection(StackPaths(tmp_path), {})


def test_a_refused_connection_is_reported_with_the_url() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with ApiClient(Connection(url)) as api, pytest.raises(CommandError) as error:
        api.get("/v1/models")

    assert error.value.message == f"cannot connect to {url}"


NO_OPTIONS: dict[str, Any] = {"system": None, "max_tokens": None, "temperature": None}
ANSWERS: dict[str, tuple[int, str, str]] = {
    "/v1/refused": (403, "application/json", '{"error":{"message":"not yours"}}'),
    "/v1/broken": (502, "text/html", "<html>"),
    "/v1/chat/completions": (
        200,
        "text/event-stream",
        (
            ": queued\n\n"
            'data: {"choices":[{"delta":{"content":"Pa\\u001b"}}]}\n\n'
            'data: {"error":{"message":"the model ended"}}\n\n'
            "data: [DONE]\n\n"
        ),
    ),
}


class Canned(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, kind, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def api() -> Iterator[ApiClient]:
    with HTTPServer(("127.0.0.1", 0), Canned) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        with ApiClient(Connection(f"http://127.0.0.1:{server.server_port}", "sk-x")) as client:
            yield client
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/v1/refused", "not yours"), ("/v1/broken", "the server answered 502 Bad Gateway")],
    ids=["from the api", "from a proxy"],
)
def test_an_error_response_is_reported_with_its_message(
    api: ApiClient, path: str, expected: str
) -> None:
    with pytest.raises(CommandError) as error:
        api.get(path)

    assert error.value.message == expected


def test_an_error_inside_a_stream_is_raised_after_the_text_before_it(api: ApiClient) -> None:
    chunks = api.stream_chat({"model": "tiny"})

    assert delta_text(next(chunks)) == "Pa\x1b"
    with pytest.raises(CommandError, match="the model ended"):
        next(chunks)


def test_an_answer_keeps_its_lines_and_no_commands_of_a_terminal() -> None:
    text = "a\tb\n\x1b]0;title\x07\r\x9b1m ü\N{ZERO WIDTH JOINER}"

    shown = formatting.printable_lines(text)

    assert shown == "a\tb\n\ufffd]0;title\ufffd\ufffd\ufffd1m ü\N{ZERO WIDTH JOINER}"


def test_only_a_terminal_gets_a_changed_answer(
    api: ApiClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPINDLL_URL", str(api.url))
    monkeypatch.setenv("SPINDLL_API_KEY", "sk-x")
    written = io.StringIO()
    master, slave = os.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        for stdout in (terminal, written):
            with contextlib.redirect_stdout(stdout), pytest.raises(CommandError):
                run(StackPaths(tmp_path), "tiny", "hi", **NO_OPTIONS)
        shown = os.read(master, 100).decode()
    os.close(master)

    assert (shown, written.getvalue()) == ("Pa\ufffd", "Pa\x1b")


def test_a_model_name_is_quoted_in_a_path() -> None:
    assert model_path("hf.co/a/b c:Q4?") == "/v1/models/hf.co/a/b%20c:Q4%3F"


def test_options_that_are_not_given_are_left_out_of_the_request() -> None:
    assert build_request("tiny", "hi") == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
    }
    assert build_request("tiny", "hi", system="be brief", max_tokens=3, temperature=0) == {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "hi"},
        ],
        "max_tokens": 3,
        "temperature": 0,
    }


@pytest.mark.parametrize(
    "chunk", [{}, {"choices": []}, {"choices": [{"delta": {"role": "assistant"}}]}]
)
def test_a_chunk_without_text_adds_nothing(chunk: dict[str, Any]) -> None:
    assert delta_text(chunk) == ""


def test_a_pull_has_one_bar_per_file_or_one_for_the_job() -> None:
    job = {"model": "tiny:1b", "downloaded_bytes": 0, "total_bytes": None, "files": []}
    file = {"path": "m.gguf", "digest": "sha256:" + "ab" * 32, "downloaded_bytes": 1}

    assert progress_rows(job) == [("tiny:1b", 0, None)]
    assert progress_rows({**job, "files": [{**file, "total_bytes": 2}]}) == [
        ("m.gguf abababababab", 1, 2)
    ]


def test_a_missing_value_is_a_dash() -> None:
    assert format_row({"id": "tiny"}) == ["tiny", "-", "-", "-", "-", "-"]
    assert format_loaded_row({"name": "tiny"}) == ["tiny", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize("command", ["down", "status", "logs"])
def test_commands_without_a_stack_create_no_folder(tmp_path: Path, command: str) -> None:
    CliRunner().invoke(app, [command, "--data", str(tmp_path / "data")])

    assert list(tmp_path.iterdir()) == []


def test_every_command_is_documented() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "cli.md").read_text()
    names = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]

    assert [name for name in names if f"## {name}" not in page] == []


def test_a_model_is_shown_with_its_warnings_first_and_without_what_is_unknown() -> None:
    model = {
        "id": "tiny:latest",
        "size_bytes": 2_265_056,
        "parameter_count": 1_115_264,
        "base_model": None,
        "backend": "mlx",
        "capabilities": ["completion", "chat"],
        "parameters": {"stop": ["<|im_end|>"], "temperature": 0.5},
        "license": "Apache License\nVersion 2.0",
        "warnings": ["It may not load."],
        "files": [{"role": "model", "path": "m.gguf", "size_bytes": 2_265_056}],
    }

    assert format_details(model) == [
        "warning: It may not load.",
        "model               tiny:latest",
        "size                2.3 MB",
        "served by           mlx, because the model is a folder of safetensors",
        "parameters          1,115,264",
        "can                 completion, chat",
        'option stop         ["<|im_end|>"]',
        "option temperature  0.5",
        "license             Apache License …",
        "file                m.gguf, model, 2.3 MB",
    ]


def test_texts_of_strangers_cannot_steer_the_terminal() -> None:
    assert formatting.printable("a\x1b[2Jb\u202ec\td é") == "a\ufffd[2Jb\ufffdc\ufffdd é"
