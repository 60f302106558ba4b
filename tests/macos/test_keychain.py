"""Secrets in the Keychain: the launcher moves them there, and services find them."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.api.access.key_files import create_key_files, read_key_files
from services.api.access.keys import Role, hash_key
from services.cli.connection import read_local_key
from services.cli.paths import StackPaths
from services.cli.supervise.reporting import curl_line
from services.engine.front.cache_index.keyring import Keyring
from services.puller.settings import PullerSettings
from services.shared.errors import InvalidSettings
from services.shared.keychain import refers_to_keychain
from tests.cli.supervise.test_reporting import state
from tests.macos.conftest import Mac

TENANT = "key_0123456789ab"


@pytest.fixture
def secrets(mac: Mac, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The secrets of a data directory, as services make them; this process is on the Mac too."""
    mac.write_facts()
    monkeypatch.setenv("PATH", str(mac.bin), prepend=":")
    monkeypatch.setenv("STAND_INS", str(mac.folder))
    folder = mac.data / "secrets"
    create_key_files(folder)
    return folder


def test_an_install_moves_the_secrets_and_every_service_still_has_its_own(
    mac: Mac, secrets: Path
) -> None:
    keys, admin = read_key_files(secrets), (secrets / "admin.key").read_text().strip()
    tag = Keyring(secrets / "cache").tag(TENANT)
    master = (secrets / "cache" / "master.key").read_bytes()

    result = mac.launcher("install", SPINDLL_HF_TOKEN="hf_abc")

    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "in the Keychain, as spindll: admin.key, user.key, hf-token, cache/master.key"
        in result.stdout
    )
    assert set(mac.keychain.values()) >= {admin, "hf_abc", master.hex()}
    assert read_key_files(secrets).keys() == keys.keys()
    assert read_local_key(StackPaths(mac.data)) == admin
    assert Keyring(secrets / "cache").tag(TENANT) == tag
    assert PullerSettings(hf_token_file=secrets / "hf-token").hub_token == "hf_abc"
    assert mac.launcher("key", "admin").stdout == f"{admin}\n"


def test_no_secret_is_left_in_a_file_or_seen_in_an_argument(mac: Mac, secrets: Path) -> None:
    Keyring(secrets / "cache")
    mac.launcher("install", SPINDLL_HF_TOKEN='hf_"$(id)`;\\')
    found = [
        file for file in mac.folder.rglob("*") if file.is_file() and file.name != "keychain.json"
    ]

    assert len(mac.keychain) == 4
    for secret in mac.keychain.values():
        forms = (secret.encode(), secret.encode().hex().encode())
        assert [file for file in found if any(form in file.read_bytes() for form in forms)] == []
    assert all(file.stat().st_mode & 0o077 == 0 for file in secrets.rglob("*") if file.is_file())


def test_where_the_keychain_refuses_the_secrets_stay_private_files(mac: Mac, secrets: Path) -> None:
    mac.facts["keychain locked"] = True
    result = mac.launcher("install", SPINDLL_HF_TOKEN="hf_abc")
    file = secrets / "hf-token"

    assert (result.returncode, file.read_text()) == (0, "hf_abc\n")
    assert f"in files in {secrets}: admin.key, user.key, hf-token" in result.stdout
    assert file.stat().st_mode & 0o777 == 0o600
    assert mac.agent["EnvironmentVariables"]["SPINDLL_HF_TOKEN_FILE"] == str(file)
    assert "hf_abc" not in mac.plist.read_text()


def test_an_install_without_the_keychain_brings_the_secrets_back(mac: Mac, secrets: Path) -> None:
    Keyring(secrets / "cache")
    before = {file: file.read_bytes() for file in secrets.rglob("*") if file.is_file()}
    mac.launcher("install")
    assert refers_to_keychain(secrets / "user.key")
    result = mac.launcher("install", "--no-keychain", "--port", "8090")

    assert (result.returncode, mac.keychain) == (0, {})
    assert {file: file.read_bytes() for file in before} == before
    assert mac.agent["ProgramArguments"][-2:] == ["--port", "8090"]


def test_a_second_install_keeps_what_is_in_the_keychain(mac: Mac, secrets: Path) -> None:
    mac.launcher("install", SPINDLL_HF_TOKEN="hf_abc")
    before = mac.keychain
    mac.launcher("install")
    assert mac.keychain == before
    assert mac.agent["EnvironmentVariables"]["SPINDLL_HF_TOKEN_FILE"] == str(secrets / "hf-token")

    mac.launcher("install", SPINDLL_HF_TOKEN="hf_new")
    assert sorted(v for v in mac.keychain.values() if v.startswith("hf")) == ["hf_new"]


def test_an_uninstall_leaves_the_keys_unless_the_models_go_too(mac: Mac, secrets: Path) -> None:
    mac.launcher("install")
    mac.launcher("uninstall")
    assert len(mac.keychain) == 2

    mac.launcher("install")
    (mac.data / "run").mkdir()
    mac.launcher("uninstall", "--models")
    assert (mac.keychain, secrets.exists()) == ({}, False)


def test_a_key_that_the_api_refuses_stays_where_it_refuses_it(mac: Mac, secrets: Path) -> None:
    (secrets / "user.key").write_text("password\n")
    mac.launcher("install")

    assert (secrets / "user.key").read_text() == "password\n"
    assert [key.role for key in read_key_files(secrets).values()] == [Role.ADMIN]


def test_a_locked_keychain_is_named_and_no_key_is_made_anew(mac: Mac, secrets: Path) -> None:
    Keyring(secrets / "cache")
    mac.launcher("install", SPINDLL_HF_TOKEN="hf_abc")
    before = {file: file.read_bytes() for file in secrets.rglob("*") if file.is_file()}
    mac.facts["keychain locked"] = True
    shown = mac.launcher("key")

    assert shown.returncode == 1
    assert shown.stderr.endswith("user.key: the Keychain is locked, or has no such secret\n")
    with pytest.raises(InvalidSettings, match="the Keychain is locked"):
        Keyring(secrets / "cache")
    with pytest.raises(InvalidSettings, match="not readable"):
        _ = PullerSettings(hf_token_file=secrets / "hf-token").hub_token
    assert read_local_key(StackPaths(mac.data)) == ""
    assert len(read_key_files(secrets)) == 2  # the api has their hashes
    assert {file: file.read_bytes() for file in before} == before


def test_a_secret_that_was_exchanged_in_the_keychain_is_not_taken(mac: Mac, secrets: Path) -> None:
    mac.launcher("install")
    mac.write_keychain(dict.fromkeys(mac.keychain, "sk-another"))

    assert read_local_key(StackPaths(mac.data)) == ""
    assert hash_key("sk-another") not in read_key_files(secrets)


def test_a_command_to_paste_asks_the_launcher_for_the_key(mac: Mac, secrets: Path) -> None:
    mac.launcher("install")

    assert "macos/spindll' key)" in curl_line(state(), StackPaths(mac.data))
