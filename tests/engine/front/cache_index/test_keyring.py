"""The keys of tenants: stable, apart from each other, and gone when they are forgotten."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from services.engine.front.cache_index.keyring import MAX_EPOCHS, Keyring
from services.shared.errors import InvalidSettings

PRIVATE = b"p" * 32


def test_a_tenant_has_the_same_keys_after_a_restart(tmp_path: Path) -> None:
    before = Keyring(tmp_path).get("alice")

    assert Keyring(tmp_path).get("alice") == before
    assert (len(before), len(before[0].id), len(before[0].secret)) == (1, 16, 32)


def test_tenants_and_private_keys_have_keys_of_their_own(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    secrets = [
        keyring.get(tenant, private)[0].secret
        for tenant in ("alice", "bob")
        for private in (b"", PRIVATE, b"q" * 32)
    ]

    assert len(set(secrets)) == len(secrets)


def test_what_a_private_key_seals_is_counted_for_its_tenant(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)

    assert keyring.find_tag(keyring.get("alice", PRIVATE)[0].id) == keyring.tag("alice")


def test_a_new_epoch_comes_first_and_the_older_ones_stay(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    first = keyring.get("alice")[0]
    for _ in range(MAX_EPOCHS - 1):
        keyring.rotate("alice")

    keys = keyring.get("alice")
    assert keys[-1] == first
    assert len({key.id for key in keys}) == MAX_EPOCHS

    keyring.rotate_all()
    assert first not in keyring.get("alice")


def test_a_rotation_does_not_bring_back_keys_that_another_engine_destroys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring = Keyring(tmp_path)
    old = keyring.get("alice")[0]
    forgetting = threading.Thread(target=lambda: Keyring(tmp_path).forget("alice"))
    read = keyring._read_file

    def read_slowly(tag: str) -> object:
        epochs = read(tag)
        forgetting.start()
        forgetting.join(0.2)
        return epochs

    monkeypatch.setattr(keyring, "_read_file", read_slowly)
    keyring.rotate("alice")
    forgetting.join()

    assert old not in Keyring(tmp_path).get("alice")


def test_a_forgotten_tenant_gets_keys_that_nothing_was_sealed_with(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    old = keyring.get("alice")[0]

    assert keyring.forget("alice")
    assert keyring.find_tag(old.id) is None
    assert not keyring.forget("alice")
    new = keyring.get("alice")[0]
    assert (new.id, new.secret) != (old.id, old.secret)
    assert Keyring(tmp_path).get("alice") == (new,)


def test_another_process_sees_new_epochs_and_forgotten_tenants(tmp_path: Path) -> None:
    ours, theirs = Keyring(tmp_path), Keyring(tmp_path)
    assert ours.get("alice") == theirs.get("alice")

    ours.rotate("alice")
    assert theirs.get("alice") == ours.get("alice")
    old = ours.get("alice")
    ours.forget("alice")
    assert theirs.get("alice")[0] not in old


def test_engines_that_meet_a_tenant_at_once_agree_on_its_first_key(tmp_path: Path) -> None:
    keyrings = [Keyring(tmp_path) for _ in range(8)]
    start = threading.Barrier(len(keyrings))
    found: list[object] = []

    def meet(keyring: Keyring) -> None:
        start.wait()
        found.append(keyring.get("alice"))

    threads = [threading.Thread(target=meet, args=(keyring,)) for keyring in keyrings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == len(keyrings)
    assert all(keys == found[0] for keys in found)


def test_no_file_names_a_tenant_and_only_the_owner_may_read_them(tmp_path: Path) -> None:
    Keyring(tmp_path).get("alice")
    paths = list(tmp_path.rglob("*"))

    assert not any("alice" in path.name for path in paths)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path, *paths))


def test_a_broken_file_of_a_tenant_costs_its_keys_and_nothing_else(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path)
    old = keyring.get("alice")
    path = next((tmp_path / "tenants").glob("*.json"))
    path.write_text(json.dumps({"tenant": 7}))

    assert keyring.get("alice") != old
    assert keyring.get("alice") == Keyring(tmp_path).get("alice")


def test_a_master_key_of_another_length_is_named(tmp_path: Path) -> None:
    Keyring(tmp_path)
    (tmp_path / "master.key").write_bytes(b"short")

    with pytest.raises(InvalidSettings, match=r"master\.key is not a key of 32 bytes"):
        Keyring(tmp_path)
