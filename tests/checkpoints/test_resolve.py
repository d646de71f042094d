from pathlib import Path
from types import SimpleNamespace

import pytest

from rcodsr.checkpoints.hub import RemoteFile, _described
from rcodsr.checkpoints.manifest import read_manifest
from rcodsr.checkpoints.resolve import resolve, sha256
from rcodsr.errors import WeightsError


def test_the_packaged_checkpoint_matches_the_manifest() -> None:
    entry = read_manifest()["rcod-tiny"]
    assert {file.name for file in entry.files} == {path.name for path in entry.directory.iterdir()} - {"README.md"}
    for file in entry.files:
        assert (entry.directory / file.name).stat().st_size == file.bytes
        assert sha256(entry.directory / file.name) == file.sha256
    assert sum(file.bytes or 0 for file in entry.files) <= 30e6


def test_name_and_digest_identify_weights(small_checkpoint: Path) -> None:
    before = resolve(str(small_checkpoint))
    assert before.id.startswith("small@")
    assert resolve("rcod-tiny").digest == resolve("rcod-tiny").digest
    config = small_checkpoint / "config.json"
    config.write_text(config.read_text() + " ")
    assert resolve(str(small_checkpoint)).digest != before.digest


def test_unknown_weights_name_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="nonsense: unknown weights; use one of .*rcod-tiny"):
        resolve("nonsense")


@pytest.mark.parametrize("name", ["rcod-o", "rcod-s"])
def test_unpublished_weights_say_so(name: str) -> None:
    with pytest.raises(WeightsError, match=f"{name}: no weights are published"):
        resolve(name)


def test_a_directory_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no config.json"):
        resolve(str(tmp_path))


def test_what_a_hub_says_of_a_file_is_believed_only_where_it_makes_sense() -> None:
    def sibling(size: object, digest: object) -> SimpleNamespace:
        return SimpleNamespace(rfilename="a.json", size=size, lfs=None, blob_id=digest)

    assert _described(sibling(7, "A" * 40)) == RemoteFile("a.json", 7, "a" * 40)
    assert _described(sibling("large", "../../x")) == _described(sibling(-5, 3)) == RemoteFile("a.json", None, None)
