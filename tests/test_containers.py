"""The recipes of the containers, followed step by step where no container can be built: in a clean virtual environment."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import rcodsr

ROOT = Path(__file__).parents[1]
INDEX = "https://download.pytorch.org/whl/"


def _instructions() -> list[list[tuple[str, str]]]:
    """The Dockerfile's stages, each as instruction and argument."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    stages: list[list[tuple[str, str]]] = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, rest))
    return stages


def _sections() -> dict[str, list[str]]:
    """The Apptainer recipe's sections, line by line."""
    parts = re.split(r"^%(\w+)\n", (ROOT / "apptainer.def").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = ([line.strip() for line in text.splitlines() if line.strip()] for text in parts[2::2])
    return dict(zip(parts[1::2], lines, strict=True))


def _copied() -> list[str]:
    """What the Dockerfile's first stage copies."""
    return [name for word, rest in _instructions()[0] if word == "COPY" for name in rest.split()[:-1]]


def _runs() -> list[str]:
    return [rest for word, rest in _instructions()[0] if word == "RUN"]


def test_both_recipes_do_the_same() -> None:
    sections = _sections()
    enter, *commands, remove = sections["post"]
    assert (enter, remove) == ("cd /src", "rm -rf /src")
    assert [command.replace("{{ TORCH }}", "${TORCH}") for command in commands] == _runs()
    copied = dict(line.split() for line in sections["files"])
    assert copied == {name: f"/src/{name}" for name in _copied()}
    assert sections["arguments"] == ["TORCH=cpu"] and ("ARG", "TORCH=cpu") in _instructions()[0]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored == ["*", *(f"!{name}" for name in _copied()), "**/__pycache__"]


def test_the_container_is_nobody_special_and_keeps_its_cache() -> None:
    final = _instructions()[-1]
    settings = dict(final)
    assert settings["USER"] == "rcodsr" and [word for word, _ in final].index("USER") > [word for word, _ in final].index("RUN")
    assert settings["VOLUME"] == "/cache" and "HF_HOME=/cache" in settings["ENV"].split()
    assert ("COPY", "--from=build /opt/rcodsr /opt/rcodsr") in final


@pytest.mark.huge
def test_its_steps_install_a_working_rcodsr(tmp_path: Path) -> None:
    source, home = tmp_path / "src", tmp_path / "rcodsr"
    for name in _copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    unset = {"PYTHONPATH", "VIRTUAL_ENV", "PIP_CONSTRAINT"}
    environment = {key: value for key, value in os.environ.items() if key not in unset and not key.startswith("RCODSR_")}
    for command in _runs():
        words = shlex.split(command.replace("/opt/rcodsr", str(home)))
        if any(INDEX in word for word in words):  # which torch is taken is the index's matter, and it may be out of reach
            at = words.index("--extra-index-url")
            del words[at : at + 2]
        words[0] = sys.executable if words[0] == "python" else words[0]
        subprocess.run(words, cwd=source, env=environment, check=True, timeout=1200)
    shutil.rmtree(source)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.new("RGB", (9, 7), "teal").save(pictures / "in.png")
    environment |= {"PATH": f"{home}/bin:/usr/bin:/bin", "HF_HOME": str(tmp_path / "cache")}

    def run(*words: str) -> str:
        done = subprocess.run(["rcodsr", *words], cwd=pictures, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert rcodsr.__version__ in run("--version")
    assert run("upscale", "in.png", "--weights", "rcod-tiny", "--device", "cpu") == "in_x4.png\n"
    with Image.open(pictures / "in_x4.png") as enlarged:
        assert enlarged.size == (36, 28)
    assert run("upscale", "in.png", "-o", "small.png", "--device", "cpu") == "small.png\n"
    has_extras = [str(home / "bin" / "python"), "-c", "import isal, pillow_heif"]
    assert subprocess.run(has_extras, env=environment).returncode == 0
