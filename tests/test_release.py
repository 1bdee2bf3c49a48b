"""What is published: the sdist and the wheel that this tree makes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from rsedge.model.bundle import DEFAULT_BUNDLE, Bundle

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = {
    "rsedge": "runtime",
    "rsedge_sample": "runtime",
    "rsedge_train": "train",
    "rsedge_export": "export",
}
MAX_INSTALLED_BYTES = 40_000_000
pytestmark = pytest.mark.slow  # `make release` builds the same


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both, made without network: what builds them is installed here. `make release` builds where nothing is."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def wheel(dist: Path) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def sdist(dist: Path) -> dict[str, tarfile.TarInfo]:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.partition("/")[2]: member for member in archive.getmembers()}


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "rsedge", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"rsedge {PROJECT['version']}\n"
    assert metadata(wheel)["Version"] == PROJECT["version"]
    code = [path for package, folder in PACKAGES.items() for path in (ROOT / folder / package).rglob("*.py")]
    assert len(code) > 100
    for path in (*code, ROOT / "Makefile", ROOT / ".ci" / "run", *(ROOT / "docker").iterdir()):
        if path.is_file():  # an sdist has no .ci
            text = path.read_text(encoding="utf-8")
            assert not re.search(rf"(?<![\d.]){re.escape(PROJECT['version'])}(?![\d.])", text), path


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    wanted = {
        (Path(package) / path.relative_to(ROOT / folder / package)).as_posix()
        for package, folder in PACKAGES.items()
        for path in (ROOT / folder / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {f"{package}/py.typed" for package in PACKAGES} < wanted
    assert {"rsedge/tiling/kernels.c", "rsedge_train/data/dubai.toml"} < wanted
    found = names(wheel)
    assert {name for name in found if ".dist-info/" not in name} == wanted
    info = f"rsedge-{PROJECT['version']}.dist-info"
    others = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "licenses/NOTICE")
    assert found - wanted == {f"{info}/{name}" for name in others}


def test_the_wheel_holds_files_where_the_tree_has_links(wheel: Path) -> None:
    bundle = Bundle.open()
    with zipfile.ZipFile(wheel) as archive:
        for name in bundle.artifacts:
            packed = archive.read(f"rsedge/models/{DEFAULT_BUNDLE.name}/{name}")
            assert packed == bundle.read(name)


def test_installed_it_is_small(wheel: Path, tmp_path: Path) -> None:
    """With the bytecode that pip compiles, and without dependencies."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(tmp_path / "site"), str(wheel)], check=True)
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert any(path.suffix == ".pyc" for path in files)
    assert sum(path.stat().st_size for path in files) < MAX_INSTALLED_BYTES


def test_the_sdist_holds_the_repository(sdist: dict[str, tarfile.TarInfo]) -> None:
    def listed(*options: str) -> set[str]:
        git = ["git", "-c", "safe.directory=*", "ls-files", *options]
        done = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True)
        return {name for name in done.stdout.splitlines() if os.path.lexists(ROOT / name)}

    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    assert {name for name in listed() - set(sdist) if not name.startswith(".ci/")} == set()
    assert set(sdist) - listed("--cached", "--others", "--exclude-standard") == {"PKG-INFO"}


def test_links_of_the_sdist_lead_to_files_of_it(sdist: dict[str, tarfile.TarInfo]) -> None:
    links = {name: member for name, member in sdist.items() if member.issym()}
    assert {Path(name).name for name in links} == set(Bundle.open().artifacts)
    for name, member in links.items():
        target = os.path.normpath(os.path.join(os.path.dirname(name), member.linkname))
        assert sdist[target].isfile()


def test_metadata(wheel: Path) -> None:
    said = metadata(wheel)
    assert (said["Name"], said["License-Expression"]) == ("rsedge", "Apache-2.0")
    assert said.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert (said["Requires-Python"], said["Description-Content-Type"]) == (">=3.10", "text/markdown")
    needed = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    first = {re.split(r"[^\w-]", line)[0] for line in needed}
    assert first == {"numpy", "pillow", "rasterio", "rich", "tomli", "typer"}
    extras = set(said.get_all("Provides-Extra", []))
    asked = (re.findall(r'rsedge\[([a-z,]+)\]"|"\.\[([a-z,]+)\]', path.read_text()) for path in sources())
    named = {extra for found in asked for pair in found for extra in ",".join(pair).split(",") if extra}
    assert named
    assert named <= extras


def sources() -> list[Path]:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return pages + [p for folder in PACKAGES.values() for p in (ROOT / folder).rglob("*.py")]


def test_what_notice_says_of_the_default_model_is_what_its_manifest_says() -> None:
    notice = " ".join((ROOT / "NOTICE").read_text(encoding="utf-8").split())
    training = Bundle.open().manifest.provenance["training"]
    scenes = [name.removeprefix("tile") for name in training["data"]["train"] if name.startswith("tile")]
    assert f"scenes {', '.join(scenes[:-1])} and {scenes[-1]} of" in notice
    assert all(re.fullmatch(r"(tile|sample)\d+", name) for name in training["data"]["train"])
    net = training["settings"]["net"]
    assert (net["checkpoint"], net["pretrained"]) == (None, False)
    assert json.loads((DEFAULT_BUNDLE / "manifest.json").read_text())["name"] in notice
