"""The package as others get it: public names, start-up, wheel, README."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import rcodsr
from rcodsr.errors import RcodsrError

ROOT = Path(__file__).parents[1]


def test_public_names_are_exactly_these() -> None:
    assert sorted(rcodsr.__all__) == ["SharedUpscaler", "UpscaleOptions", "Upscaler", "__version__", "errors", "load", "save"]
    for name in rcodsr.__all__:
        assert getattr(rcodsr, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rcodsr.nonsense


def test_importing_the_package_loads_no_torch() -> None:
    code = "import sys, rcodsr; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.usefixtures("packaged_default")
def test_the_default_path_loads_neither_diffusers_nor_transformers() -> None:
    code = (
        "import sys, rcodsr; rcodsr.load(device='cpu')\n"
        "print([m for m in ('diffusers', 'transformers', 'peft', 'torchvision', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, RcodsrError) and value is not RcodsrError


def test_every_error_has_its_own_documented_exit_code() -> None:
    kinds = {kind.__name__: kind.exit_code for kind in vars(rcodsr.errors).values() if _is_error(kind)}
    documented = dict(re.findall(r"── (\w+) +(\d)", rcodsr.errors.__doc__ or ""))
    assert {name: str(code) for name, code in kinds.items()} == documented


def test_no_unsafe_loading_in_the_source(tmp_path: Path) -> None:
    check = [sys.executable, str(ROOT / "tools" / "check_safety.py")]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    lines = ["import pickle", "torch.load(f)", "torch.load(f, weights_only=False)", "eval(x)", "run(x, shell=True)"]
    (tmp_path / "a.py").write_text("\n".join([*lines, "load(x, trust_remote_code=True)", "Image.open(x)"]) + "\n")
    found = subprocess.run([*check, str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 1
    assert {line.split(":")[1] for line in found.stdout.splitlines()} == {"1", "2", "3", "4", "5", "6", "7"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return next(out.glob("*.whl"))


def test_the_wheel_carries_manifest_recipes_and_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"rcodsr/weights.toml", "rcodsr/recipes/rcod-tiny.toml", "rcodsr/py.typed"} <= names
    files = ("config.json", "unet.safetensors", "README.md")
    assert {f"rcodsr/assets/{weights}/{name}" for weights in ("rcod-small", "rcod-tiny") for name in files} <= names
    licences = {name.rpartition("/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "LICENSE.Real-ESRGAN"}


@pytest.mark.usefixtures("packaged_default")
def test_an_installed_wheel_works_outside_the_checkout(wheel: Path, photo: Image.Image, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    work = tmp_path / "elsewhere"
    work.mkdir()
    photo.resize((16, 16)).save(work / "in.png")
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import rcodsr; print(rcodsr.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert found.stdout.startswith(str(site))
    command = [sys.executable, "-m", "rcodsr", "upscale", "in.png"]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Image.open(work / "in_x4.png") as image:
        assert image.size == (64, 64)


# ---- the README is executed


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def _commands() -> list[str]:
    lines = "\n".join(_blocks("bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.startswith("rcodsr ")]


def test_the_readme_shows_the_promised_commands() -> None:
    commands = _commands()
    assert "rcodsr upscale in.png --realism 0.5" in commands
    assert len(commands) >= 8


def test_readme_commands_run_as_written(desk: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command in _commands():
        done = subprocess.run(command, shell=True, cwd=desk, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


def test_readme_python_runs_as_written(desk: Path) -> None:
    (code,) = _blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (desk / "photo_x4.jpg").exists()
