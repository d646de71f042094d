"""`--engine ray` and s3://, on a local cluster and a local store. CI has neither: CONTRIBUTING.md says how to run these."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import RunCli

HAS_RAY, HAS_STORE = find_spec("ray") is not None, find_spec("s3fs") is not None and find_spec("moto") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install 'ray[data]'")
needs_store = pytest.mark.skipif(not HAS_STORE, reason="needs an S3 server: pip install s3fs 'moto[server]'")

# runs as a program of its own, whose processes end with it: two machines of one CPU, one of which is killed in mid-run
_CLUSTER = """
import subprocess, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 << 20})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=200 << 20) for _ in range(2)]
batch = subprocess.Popen([sys.executable, "-m", "rcodsr", *sys.argv[1:], "--engine", "ray", "--address", cluster.address])
while batch.poll() is None and not (Path("out").is_dir() and len(list(Path("out").iterdir())) > 3):
    time.sleep(0.02)
print("KILLED", len(list(Path("out").iterdir())), file=sys.stderr)
cluster.remove_node(nodes[0], allow_graceful=False)
code = batch.wait()
cluster.shutdown()
sys.exit(code)
"""


@pytest.fixture
def album(photo: Image.Image, tmp_path: Path) -> Path:
    directory = tmp_path / "album"
    directory.mkdir()
    for number in range(24):
        photo.resize((12 + number, 10)).save(directory / f"{number:02d}.png")
    (directory / "11.png").write_text("no picture")
    return directory


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on loopback, and the environment that leads to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL)
    values = {"ENDPOINT_URL": f"http://127.0.0.1:{port}", "ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "y"}
    for name, value in {**values, "DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield values["ENDPOINT_URL"]
    finally:
        server.kill()
        server.wait()


def _store(script: str) -> None:
    """Do something in the store, in a process of its own: its threads are none of ours."""
    subprocess.run([sys.executable, "-c", f"import s3fs; fs = s3fs.S3FileSystem()\n{script}"], check=True)


def _contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def _rows(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def _one_line(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if not line.startswith("rcod-tiny@")]
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert lines[0].startswith("rcodsr: ")
    for word in words:
        assert word in lines[0]


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray(run_cli: RunCli, album: Path) -> None:
    _one_line(run_cli("upscale", "album", "--engine", "ray"), 2, "Ray is not installed", "ray[data]")


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_without_s3fs(run_cli: RunCli, tmp_path: Path) -> None:
    _one_line(run_cli("upscale", "s3://bucket/in", "-o", "out"), 2, "s3fs", "pip install")


def test_an_address_is_for_ray(run_cli: RunCli, album: Path) -> None:
    _one_line(run_cli("upscale", "album", "--address", "here:6379"), 2, "--engine ray")


@needs_ray
@pytest.mark.slow
def test_a_machine_killed_in_mid_run_costs_nothing(run_cli: RunCli, album: Path) -> None:
    alone = run_cli("upscale", "album", "-o", "alone", "--json", "--report", "alone.jsonl")
    command = [sys.executable, "-c", _CLUSTER, "upscale", "album", "-o", "out", "--json", "--report", "out.jsonl"]
    spread = subprocess.run(command, cwd=album.parent, capture_output=True, text=True, timeout=600)
    assert (alone.returncode, spread.returncode) == (1, 1), spread.stderr
    assert 3 < int(spread.stderr.partition("KILLED ")[2].split()[0]) < 23  # of the 23 there will be
    assert _contents(album.parent / "out") == _contents(album.parent / "alone")

    def essence(text: str) -> list[object]:
        kept = ("input", "output", "status", "width", "height", "timestep", "weights", "error", "summary")
        return [[row.get(key) for key in kept] for row in _rows(text.replace('"out/', '"alone/'))]

    assert essence(spread.stdout) == essence(alone.stdout)
    assert essence((album.parent / "out.jsonl").read_text()) == essence(alone.stdout)[:-1]


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_none(run_cli: RunCli, album: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        here = f"127.0.0.1:{silent.getsockname()[1]}"
        _one_line(run_cli("upscale", "album", "--engine", "ray", "--address", here), 4, here, "does not answer")
    _one_line(run_cli("upscale", "album", "--engine", "ray", "--address", here), 4, here, "cannot be reached")
    _one_line(run_cli("upscale", "album", "--engine", "ray", "--address", "nonsense"), 2, "HOST:PORT")


@needs_store
@pytest.mark.slow
def test_a_store_is_a_folder(run_cli: RunCli, album: Path, store: str) -> None:
    base = album.parent
    run_cli("upscale", "album", "-o", "alone")
    _store(f"fs.mkdir('photos'); fs.put({str(album)!r} + '/', 'photos/in/', recursive=True)")
    done = run_cli("upscale", "s3://photos/in", "-o", "s3://photos/out", "--json")
    *rows, summary = _rows(done.stdout)
    assert (done.returncode, summary["summary"]) == (1, {"done": 23, "skipped": 0, "failed": 1}), done.stderr
    assert (rows[3]["input"], rows[3]["output"]) == ("s3://photos/in/03.png", "s3://photos/out/03.png")
    assert str(rows[11]["error"]).startswith("s3://photos/in/11.png: not a picture")
    # a half-written object, and one that is not ours
    _store("d = fs.cat('photos/out/00.png'); fs.pipe_file('photos/out/00.png', d[:len(d) // 2]); fs.rm('photos/out/02.png')")
    _store("fs.pipe_file('photos/out/01.png', fs.cat('photos/in/01.png'))")
    options = ["--include", "0?.png", "--json", *(["--engine", "ray", "-j", "1"] if HAS_RAY else [])]
    command = [sys.executable, "-m", "rcodsr", "upscale", "s3://photos/in", "-o", "s3://photos/out", *options]
    again = _rows(subprocess.run(command, cwd=base, stdout=subprocess.PIPE, text=True, timeout=600).stdout)
    assert [row.get("status") for row in again] == ["done", "failed", "done", *["skipped"] * 7, None]
    _store(f"fs.get('photos/out/', {str(base / 'fetched')!r} + '/', recursive=True)")
    wanted, found = _contents(base / "alone"), _contents(base / "fetched")
    assert {**found, "01.png": b""} == {**wanted, "01.png": b""}
    assert found["01.png"] == (album / "01.png").read_bytes()


@needs_store
@pytest.mark.slow
def test_a_store_that_is_none(run_cli: RunCli, album: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _one_line(run_cli("upscale", "s3://nobody/in", "-o", "out"), 6, "s3://nobody/in", "no such bucket")
    _one_line(run_cli("upscale", "album", "-o", "s3://nobody/out"), 7, "s3://nobody/out", "no such bucket")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("HOME", os.devnull)
    _one_line(run_cli("upscale", "s3://nobody/in", "-o", "out"), 6, "no credentials")
