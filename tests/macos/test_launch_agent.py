"""The agent of launchd: what is in its file, whatever the paths are."""

from __future__ import annotations

import plistlib

from macos import launch_agent
from tests.macos.conftest import Mac

# `man launchd.plist`. A key that launchd does not know is ignored in silence.
KEYS = {
    "EnvironmentVariables": dict,
    "ExitTimeOut": int,
    "KeepAlive": dict,
    "Label": str,
    "ProcessType": str,
    "ProgramArguments": list,
    "RunAtLoad": bool,
    "SoftResourceLimits": dict,
    "StandardErrorPath": str,
    "StandardOutPath": str,
    "ThrottleInterval": int,
    "Umask": int,
    "WorkingDirectory": str,
}


def test_the_template_has_keys_of_launchd_with_their_types() -> None:
    template = plistlib.loads(launch_agent.TEMPLATE.read_bytes())

    assert {key: type(value) for key, value in template.items()} == KEYS
    assert template["Label"] == launch_agent.TEMPLATE.stem


def test_the_installed_agent_is_whole_with_any_characters_in_paths(mac: Mac) -> None:
    data = mac.home / 'da<ta & "models"'
    result = mac.launcher(
        *("install", "--data", str(data), "--port=8090", "--grpc-port", "0"),
        SPINDLL_PULL_HOURS="22-6",
        SPINDLL_OLLAMA_REGISTRY="https://user:secret@registry.example",
        SPINDLL_PULL_WEBHOOK_URL="https://example.org/hook?signature=1",
        SPINDLL_LOG_LEVEL="",
    )

    assert result.stderr.splitlines() == [
        "SPINDLL_OLLAMA_REGISTRY looks like a secret and is not written to the agent",
        "SPINDLL_PULL_WEBHOOK_URL looks like a secret and is not written to the agent",
    ]
    log = str(data / "logs" / "supervisor.log")
    assert mac.agent == {
        "Label": "local.spindll",
        "ProgramArguments": [
            *("/bin/sh", str(mac.root / "macos" / "spindll"), "run"),
            *("--port", "8090", "--grpc-port", "0"),
        ],
        "WorkingDirectory": str(mac.root),
        "EnvironmentVariables": {
            "PATH": f"{mac.bin}:/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "SPINDLL_DATA_DIR": str(data),
            "SPINDLL_PULL_HOURS": "22-6",
        },
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 30,
        "ProcessType": "Interactive",
        "ExitTimeOut": 90,
        "SoftResourceLimits": {"NumberOfFiles": 8192},
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }


def test_the_address_of_an_agent_is_one_to_connect_to() -> None:
    def url(*options: str) -> str:
        return launch_agent.read_url({"ProgramArguments": ["/bin/sh", "spindll", "run", *options]})

    assert url() == "http://127.0.0.1:8080"
    assert url("--host", "::", "--port", "1") == "http://127.0.0.1:1"
    assert url("--host", "fd00::1") == "http://[fd00::1]:8080"


def test_only_settings_and_proxies_that_are_no_secrets_are_kept() -> None:
    environment = {
        "HTTPS_PROXY": "http://user:password@proxy:3128",
        "http_proxy": "http://proxy:3128",
        "NO_PROXY": "localhost",
        "EDITOR": "vi",
        "SPINDLL_DATA_DIR": "/data",
        "SPINDLL_HF_TOKEN": "hf_abc",
        "SPINDLL_HF_TOKEN_FILE": "/data/token",
        "SPINDLL_HF_ENDPOINT": "https://mirror.example",
        "SPINDLL_API_KEY": "sk-abc",
    }

    assert launch_agent.choose_settings(environment) == (
        {
            "http_proxy": "http://proxy:3128",
            "NO_PROXY": "localhost",
            "SPINDLL_HF_TOKEN_FILE": "/data/token",
            "SPINDLL_HF_ENDPOINT": "https://mirror.example",
        },
        ["HTTPS_PROXY", "SPINDLL_API_KEY", "SPINDLL_HF_TOKEN"],
    )
