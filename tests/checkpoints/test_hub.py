"""Weights from a Hub that works: pins, caches, revisions, mirrors."""

import json
import os
from pathlib import Path

import pytest

from tests.hub_client import Client, contents, repositories
from tests.loopback_hub import LoopbackHub

Files = dict[str, bytes]


# ---- fetched once


def test_a_repository_is_fetched_once(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    commit = hub.add("org/small", small_files)
    first = client.resolve("org/small")
    assert (first.files(), first.source) == (small_files, f"org/small@{commit}")
    assert first.log[-1] == f"org/small@main: pinned to org/small at commit {commit}"
    again = client.resolve("org/small")
    assert (again.id, again.directory, again.log, hub.log) == (first.id, first.directory, [], [])
    hub.close()
    assert client.resolve("org/small").id == first.id


def test_bases_come_from_the_repositories_of_the_manifest(
    hub: LoopbackHub, client: Client, base_files: dict[str, Files]
) -> None:
    for base, files in base_files.items():
        hub.add(repositories(base)[0], files | {"README.md": b"of no use", "unet/diffusion_pytorch_model.bin": b"pickle"})
        assert client.resolve_base(base).files() == files
        assert client.resolve_base(base).log == []
        assert hub.log == []


def test_only_files_of_our_format_are_fetched(hub: LoopbackHub, client: Client, small_files: Files, tmp_path: Path) -> None:
    others = ["../evil.json", "../../evil.json", "/evil.json", "sub/evil.json", ".evil.json", "evil.bin", "evil.py"]
    hub.add("org/evil", small_files | dict.fromkeys(others, b"{}"))
    assert client.resolve("org/evil").files() == small_files
    assert not [path for path in tmp_path.rglob("*evil.*") if path.is_file()]
    assert not Path("/evil.json").exists()


def test_a_repository_without_a_checkpoint_is_refused(hub: LoopbackHub, client: Client) -> None:
    hub.add("org/other", {"model.safetensors": b"weights of something else"})
    client.resolve("org/other").fails_with("org/other: not an rcodsr checkpoint")


@pytest.mark.parametrize("name", ["org/two--dashes", "org/two..dots", "org/ends.git"])
def test_names_that_no_repository_can_have_are_refused(client: Client, name: str) -> None:
    client.resolve(name).fails_with(name)
    client.resolve(name, offline=True).fails_with("not in the cache, and offline")


# ---- a cache filled by others


@pytest.mark.parametrize("checkpoint", ["small_checkpoint", "adapter_checkpoint"])
def test_what_another_program_fetched_is_used(
    hub: LoopbackHub, client: Client, checkpoint: str, request: pytest.FixtureRequest
) -> None:
    files = contents(request.getfixturevalue(checkpoint))
    hub.add("org/shared", files | {"README.md": b"# A model"})
    client.another_program("snapshot_download", repo_id="org/shared")
    for offline in (True, False):
        found = client.resolve("org/shared", offline=offline)
        assert {name: found.files()[name] for name in files} == files
        assert (found.log, hub.log) == ([], [])


def test_bases_another_program_fetched_are_used(hub: LoopbackHub, client: Client, base_files: dict[str, Files]) -> None:
    mirror = repositories("sd21-base")[1]
    hub.add(mirror, base_files["sd21-base"])
    for name in base_files["sd21-base"]:
        client.another_program("hf_hub_download", repo_id=mirror, filename=name)
    assert client.resolve_base("sd21-base", offline=True).files() == base_files["sd21-base"]
    assert hub.log == []


def test_what_another_program_fetched_in_part_is_completed(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/part", small_files)
    client.another_program("hf_hub_download", repo_id="org/part", filename="config.json")
    client.resolve("org/part", offline=True).fails_with("org/part@main: not in the cache, and offline", "hf download org/part")
    assert client.resolve("org/part").files() == small_files


@pytest.mark.parametrize("name", ["config.json", "unet.safetensors"])
def test_what_another_program_left_damaged_is_not_used(hub: LoopbackHub, client: Client, small_files: Files, name: str) -> None:
    hub.add("org/rotten", small_files)
    client.another_program("snapshot_download", repo_id="org/rotten")
    (blob,) = (path.resolve() for path in client.home.rglob(name))
    blob.write_bytes(bytes(byte ^ 1 for byte in small_files[name]))
    client.resolve("org/rotten", offline=True).fails_with(name, "damaged")
    assert client.resolve("org/rotten").files() == small_files


@pytest.mark.parametrize("variables", [{"HF_HUB_OFFLINE": "1"}, {"TRANSFORMERS_OFFLINE": "1"}])
def test_offline_by_environment(hub: LoopbackHub, small_files: Files, tmp_path: Path, variables: dict[str, str]) -> None:
    hub.add("org/small", small_files)
    offline = Client(hub, tmp_path / "home", **variables)
    offline.resolve("org/small").fails_with("org/small@main: not in the cache, and offline")
    assert hub.log == []
    Client(hub, tmp_path / "home").resolve("org/small")
    assert offline.resolve("org/small").files() == small_files
    assert hub.log == []


def _share(blob: Path, cache: Path) -> Path:
    """Move contents to where huggingface_hub keeps those of several repositories: under a hash of Xet's, linked from both."""
    shared = cache / "blobs" / "ab" / f"ab{'0' * 62}"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    return shared


def test_contents_that_repositories_share_are_used_and_stay_when_one_is_removed(
    hub: LoopbackHub, client: Client, small_files: Files
) -> None:
    hub.add("org/sharing", small_files)
    client.another_program("snapshot_download", repo_id="org/sharing")
    (file,) = client.home.rglob("unet.safetensors")
    shared = _share(file.resolve(), client.home / "hub")
    found = client.resolve("org/sharing", offline=True)
    assert (found.files(), found.log) == (small_files, [])
    client.runs("from rcodsr.checkpoints.store import remove; remove('org/sharing')")
    assert not list(client.home.rglob("unet.safetensors"))
    assert shared.read_bytes() == small_files["unet.safetensors"]


_HOST = """
import warnings
from huggingface_hub import constants, logging
from rcodsr.checkpoints.resolve import resolve

def state():
    handlers = logging.get_logger().handlers
    return dict(vars(constants)), logging.get_verbosity(), list(warnings.filters), [list(h.filters) for h in handlers]

before = state()
resolve("org/small")
assert state() == before
"""


def test_the_host_program_finds_the_library_as_it_was(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/small", small_files)
    hub.fault("503", path="unet.safetensors", times=2)
    client.runs(_HOST)


# ---- commits


def test_a_name_means_the_commit_first_fetched(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    first = hub.add("org/moving", small_files)
    client.resolve("org/moving")
    changed = {**small_files, "unet.safetensors": b"trained again"}
    second = hub.add("org/moving", changed)
    assert client.resolve("org/moving").files() == small_files
    assert client.resolve("org/moving", revision="main").files() == small_files
    assert client.resolve("org/moving", revision=second).files() == changed
    assert client.resolve("org/moving", revision=first).files() == small_files
    assert client.resolve("org/moving", revision=second, offline=True).files() == changed
    assert hub.log == []


def test_a_pin_holds_when_the_cache_is_gone(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    first = hub.add("org/moving", small_files)
    before = client.resolve("org/moving")
    hub.add("org/moving", {**small_files, "unet.safetensors": b"trained again"})
    (client.home / "hub").rename(client.home / "elsewhere")
    after = client.resolve("org/moving")
    assert (after.files(), after.id, after.source) == (small_files, before.id, f"org/moving@{first}")


def test_an_unknown_revision_is_named(hub: LoopbackHub, client: Client, small_files: Files) -> None:
    hub.add("org/small", small_files)
    client.resolve("org/small", revision="v9").fails_with("org/small: has no revision v9", "check --revision")


@pytest.mark.parametrize("pins", ["", "{", "[]", '{"org/small@main": 1}', '{"org/small@main": {"repo": "org/small"}}'])
def test_a_damaged_pin_file_is_made_anew(hub: LoopbackHub, client: Client, small_files: Files, pins: str) -> None:
    commit = hub.add("org/small", small_files)
    client.another_program("snapshot_download", repo_id="org/small")
    path = client.home / "rcodsr" / "pins.json"
    path.parent.mkdir()
    path.write_text(pins)
    assert client.resolve("org/small").files() == small_files
    assert hub.log == []
    assert json.loads(path.read_text())["org/small@main"]["revision"] == commit


# ---- a cache that rots


@pytest.mark.parametrize("name", ["config.json", "unet.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_fetched_again(hub: LoopbackHub, client: Client, small_files: Files, name: str, damage: str) -> None:
    hub.add("org/small", small_files)
    path = Path(client.resolve("org/small").directory) / name
    data = small_files[name]
    damaged = {"flipped": bytes([data[0] ^ 1]) + data[1:], "cut": data[:-1], "gone": b""}[damage]
    path.resolve().write_bytes(damaged)
    if damage == "gone":
        path.resolve().unlink()
    offline = client.resolve("org/small", offline=True)
    offline.fails_with("not in the cache, and offline" if damage == "gone" else f"{path}: damaged", "online")
    assert hub.log == []
    again = client.resolve("org/small")
    assert again.files() == small_files
    assert [request.path.rpartition("/")[2] for request in hub.log if request.method == "GET"][-1] == name
    assert any(name in line and "fetching" in line for line in again.log)


# ---- mirrors


@pytest.mark.parametrize("fault", ["404_repo", "401_repo", "403", "403_gated", "404_entry", "wrong_bytes"])
def test_a_mirror_is_used_when_the_first_repository_fails(
    hub: LoopbackHub, client: Client, base_files: dict[str, Files], fault: str
) -> None:
    first, mirror = repositories("sd21-base")
    commits = [hub.add(repo, base_files["sd21-base"]) for repo in (first, mirror)]
    hub.fault(fault, repo=first)
    found = client.resolve_base("sd21-base")
    assert (found.files(), found.source) == (base_files["sd21-base"], f"{mirror}@{commits[1]}")
    assert any(line.startswith(first) and line.endswith(f"; trying {mirror}") for line in found.log)
    hub.fault(None)
    assert client.resolve_base("sd21-base").source == found.source
    assert hub.log == []


def test_the_mirror_that_was_used_is_asked_first_from_then_on(
    hub: LoopbackHub, client: Client, base_files: dict[str, Files]
) -> None:
    first, mirror = repositories("sd21-base")
    hub.add(mirror, base_files["sd21-base"])
    client.resolve_base("sd21-base")
    hub.add(first, dict.fromkeys(base_files["sd21-base"], b"something else"))
    (client.home / "hub").rename(client.home / "elsewhere")
    assert client.resolve_base("sd21-base").files() == base_files["sd21-base"]
    assert not [request for request in hub.log if first in request.path]


def test_all_repositories_that_failed_are_named(hub: LoopbackHub, client: Client, base_files: dict[str, Files]) -> None:
    first, mirror = repositories("sd21-base")
    hub.add(mirror, base_files["sd21-base"], gated=True)
    client.resolve_base("sd21-base").fails_with(f"{first}@main: not found", mirror, "gated")


def test_another_base_may_be_named(hub: LoopbackHub, client: Client, base_files: dict[str, Files]) -> None:
    hub.add("me/my-base", base_files["sd21-base"])
    assert client.resolve_base("sd21-base", override="me/my-base").files() == base_files["sd21-base"]
    assert client.resolve_base("sd21-base", override="me/my-base").log == []
    assert hub.log == []


# ---- addresses


def test_a_password_in_the_address_is_not_shown(hub: LoopbackHub, tmp_path: Path) -> None:
    address = hub.url.replace("//", "//me:secret@")
    found = Client(hub, tmp_path / "home", HF_ENDPOINT=address).resolve("org/missing")
    found.fails_with("org/missing@main: not found on 127.0.0.1")
    assert "secret" not in str(found)


def test_plain_http_is_remarked_upon(hub: LoopbackHub, small_files: Files, tmp_path: Path) -> None:
    hub.add("org/small", small_files)
    address = hub.url.replace("127.0.0.1", "0.0.0.0")
    assert (
        Client(hub, tmp_path / "home", HF_ENDPOINT=address).resolve("org/small").log[0]
        == f"HF_ENDPOINT {address} is not encrypted"
    )
