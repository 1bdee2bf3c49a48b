"""docker/ without a container engine: what the files promise of each other, of the repository and of the command line.

``make lint`` runs hadolint on the Dockerfiles.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement

from rsedge.cli.main import app

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docker"
DOCKERFILES = sorted(FOLDER.glob("Dockerfile*"))
UNIT = FOLDER / "rsedge-watch.service"
JETSON = {"Dockerfile.jetpack6", "Dockerfile.jetpack7"}
Step = tuple[str, str]
each = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def stages(path: Path) -> list[list[Step]]:
    """Instructions and their values, stage by stage; what stands before the first belongs to it."""
    found: list[list[Step]] = [[]]
    with path.open("rb") as file:
        for step in DockerfileParser(fileobj=file).structure:
            if step["instruction"] == "FROM" and any(name == "FROM" for name, _ in found[-1]):
                found.append([])
            if step["instruction"] != "COMMENT":
                found[-1].append((step["instruction"], step["value"]))
    return found


def values(steps: list[Step], instruction: str) -> list[str]:
    return [value for name, value in steps if name == instruction]


def check_command(words: list[str]) -> None:
    """Parse ``rsedge WORDS`` as the command line does; raises where it would be refused."""
    group = typer.main.get_command(app)
    with group.make_context("rsedge", list(words)) as context:
        name, command, rest = group.resolve_command(context, list(words))
        command.make_context(name, rest, parent=context)


def test_there_is_an_image_for_each_kind_of_machine() -> None:
    assert {path.name for path in DOCKERFILES} == {"Dockerfile", "Dockerfile.gpu", *JETSON}


@each
def test_bases_are_pinned(path: Path) -> None:
    build, final = stages(path)
    defaults = dict(arg.split("=", 1) for arg in values(build, "ARG") if "=" in arg)
    for (base,) in (values(build, "FROM"), values(final, "FROM")):
        image = re.sub(r"\$\{(\w+)\}", lambda m: defaults[m[1]], base.split()[0])
        assert re.search(r":[\w.-]*\d", image), image


@each
def test_the_image_is_what_runs_and_no_more(path: Path) -> None:
    _, final = stages(path)
    assert values(final, "USER") == ["rsedge"]
    after = final[final.index(("USER", "rsedge")) :]
    assert not values(after, "RUN")
    assert not any(
        re.search(r"\b(pip|gcc|build-essential|python3-dev)\b", run) for run in values(final, "RUN")
    )
    assert any("useradd" in run for run in values(final, "RUN"))
    assert values(final, "ENTRYPOINT") == ['["rsedge"]']
    (command,) = values(final, "CMD")
    check_command(json.loads(command))
    (health,) = values(final, "HEALTHCHECK")
    words = json.loads(health.partition("CMD ")[2])
    assert words == ["rsedge", *json.loads(command)[:4], "--health"]
    check_command(words[1:])


@each
def test_layers_hold_no_leavings(path: Path) -> None:
    for run in (run for stage in stages(path) for run in values(stage, "RUN")):
        if "apt-get" in run:
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists/*" in run
        assert run.count("pip install") == run.count("pip install --no-cache-dir")


REQUIREMENTS = {"Dockerfile": "cpu", "Dockerfile.gpu": "gpu", **dict.fromkeys(JETSON, "jetson")}


@each
def test_what_is_installed_is_known_by_its_hash(path: Path) -> None:
    (run,) = (run for stage in stages(path) for run in values(stage, "RUN") if "pip install" in run)
    installs = [part for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 3
    assert all("--require-hashes -r " in part or "--no-deps --no-index" in part for part in installs)
    assert re.search(rf"REQUIREMENTS\.txt|docker/requirements/{REQUIREMENTS[path.name]}\.txt", run)
    if "$REQUIREMENTS" in run:
        assert "REQUIREMENTS=cpu" in values(stages(path)[0], "ARG")


def pinned(name: str) -> dict[str, set[str]]:
    """Packages of a file of requirements, and their versions, one for each kind of machine."""
    text = (ROOT / "docker/requirements" / f"{name}.txt").read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for line in re.split(r"\n(?! )", text.strip()):
        package, version = re.match(r"([\w.-]+)==([\w.+]+)( ;[^\\]*)? \\", line).groups()[:2]
        assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", line)) == line.count("--hash=") > 0, package
        found.setdefault(package, set()).add(version)
    return found


@pytest.mark.parametrize("name", ["cpu", "cpu-openvino", "gpu", "jetson", "build"])
def test_requirements_are_what_the_project_asks_for(name: str) -> None:
    found = pinned(name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"cpu-openvino": ["cpu", "openvino"], "jetson": ["cpu"], "build": []}.get(name, [name])
    asked = [word for extra in extras for word in project["optional-dependencies"][extra]]
    for text in [*asked, *(project["dependencies"] if extras else ["hatchling"])]:
        wanted = Requirement(text)
        assert all(wanted.specifier.contains(v, prereleases=True) for v in found[wanted.name]), text
    assert ("pycuda" in found) is (name in {"gpu", "jetson"})
    assert (found.get("onnxruntime-gpu") == {"1.23.2"}) is (name == "gpu")
    assert not {"tensorrt", "torch"} & set(found)  # TensorRT comes with the base


@each
def test_what_is_copied_is_there_and_sent(path: Path) -> None:
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copies = [copy.split() for stage in stages(path) for copy in values(stage, "COPY")]
    from_here = [
        [w for w in words if not w.startswith("--chown")] for words in copies if "--from=build" not in words
    ]
    assert len(from_here) >= 4
    for *sources, _ in from_here:
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(source == kept or source.startswith(f"{kept}/") for kept in allowed), source


def test_commands_of_the_readme_are_understood() -> None:
    text = (FOLDER / "README.md").read_text()
    blocks = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
    lines = [re.split(r"\s{2,}#|; echo", line)[0] for line in blocks.splitlines()]
    commands = [line.removeprefix("rsedge ") for line in lines if line.startswith("rsedge ")]
    commands += [m[1] for line in lines if (m := re.search(r"docker run -d .* rsedge:\w+ (watch .*)", line))]
    assert len(commands) == 7
    for command in commands:
        check_command(shlex.split(command))
    (options,) = re.findall(r"echo 'OPTIONS=(.*?)'", blocks)
    check_command(["watch", "/in", "--out-dir", "/out", *options.split()])
    for name in re.findall(r"(?:docker|runtime|tests)/[\w./*-]+\w", text):
        assert list(ROOT.glob(name)), name


def test_the_readme_names_every_base() -> None:
    text = (FOLDER / "README.md").read_text()
    for path in DOCKERFILES:
        assert f"| `{path.name}` |" in text
        assert values(stages(path)[0], "FROM")[0].split()[0].partition("@")[0] in text  # without its digest


def settings_of(unit: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit.splitlines() if re.match(r"\w+=", line))


def test_the_service_runs_what_it_says(
    tmp_path: Path, call_rsedge: Callable[..., tuple[int, str, str]]
) -> None:
    settings = settings_of(UNIT.read_text())
    (tmp_path / "in").mkdir()
    program, *words = settings["ExecStart"].replace("/srv/rsedge", str(tmp_path)).split()
    assert (Path(program).name, words.pop()) == ("rsedge", "$OPTIONS")
    assert call_rsedge(*words, "--once", "--settle", "0", "--quiet") == (0, "", "")
    assert settings["ReadWritePaths"] == words[words.index("--out-dir") + 1].replace(
        str(tmp_path), "/srv/rsedge"
    )
    assert settings["SuccessExitStatus"] == "130"
    assert settings["User"] == "rsedge"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_understands_the_service(tmp_path: Path) -> None:
    program = settings_of(UNIT.read_text())["ExecStart"].split()[0]
    there = tmp_path / UNIT.name
    there.write_text(UNIT.read_text().replace(program, "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", there], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert UNIT.name not in done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_the_service_may_do_little() -> None:
    """At most 2.5 of 10: "OK" begins there, and a GPU's watcher needs no more."""
    command = ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager", UNIT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_watcher_that_hangs_is_started_anew() -> None:
    from rsedge.watch.ledger import LOST_S, PULSE_S

    settings = settings_of(UNIT.read_text())
    assert settings["Restart"] == "on-failure"  # a missed watchdog is one
    assert settings["NotifyAccess"] == "main"
    assert float(settings["WatchdogSec"]) >= max(LOST_S, 10 * PULSE_S)


def test_the_service_reaches_no_network_and_runs_nothing_that_lands_in_its_folders() -> None:
    settings = settings_of(UNIT.read_text())
    assert settings["PrivateNetwork"] == "yes"
    assert settings["IPAddressDeny"] == "any"
    assert settings["RestrictAddressFamilies"] == "AF_UNIX"  # the watchdog's
    assert {"/srv/rsedge/in", "/srv/rsedge/out"} <= set(settings["NoExecPaths"].split())


SHUT_IN = ("--read-only", "--cap-drop ALL", "--security-opt no-new-privileges", "--network none")


def test_containers_are_run_shut_in() -> None:
    texts = [
        path.read_text().replace("\\\n#", " ").replace("\\\n", " ")
        for path in (FOLDER / "README.md", *DOCKERFILES)
    ]
    runs = re.findall(r"docker run [^\n]*", "\n".join(texts))
    assert len(runs) == 3
    for run in runs:
        assert all(option in run for option in SHUT_IN), run


def test_the_security_page_is_linked_and_its_links_lead_somewhere() -> None:
    assert "SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/trust.md)" in (FOLDER / "README.md").read_text(encoding="utf-8")
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([\w./-]+)\)", text):
        assert (ROOT / name).exists(), name
    text += (ROOT / "docs/trust.md").read_text(encoding="utf-8")
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"`make\s+(\w+)", text)) <= set(targets)
