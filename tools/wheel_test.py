"""The wheel and the source package as their users get them: looked into, installed in clean environments, used there.

The wheel is installed from its file, the source package is built once more, both outside the checkout. The second build
is a debug build: that shows as well that the source package is whole.

    tools/wheel_test.py DIST        DIST has one wheel and one source package
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "ipivrs"
RECORDING = ROOT / "examples" / "linux-boot-long-x2apic-smp2.perf.data"

# What a user's own code does; mypy reads it too, so the types have to have come along.
PROGRAM = """\
import sys
from pathlib import Path

import ipivrs

assert Path(ipivrs.__file__).is_relative_to(sys.prefix), ipivrs.__file__
total: int = ipivrs.run(sys.argv[1]).counters["virtualized"]
holds: bool | None = ipivrs.check("kvm", senders=1, software=0).holds
ping = ipivrs.Program().loop(10, ipivrs.Program().send(0xFB, to=1).compute(500))
vm = ipivrs.VM(vcpus=2, group=[ipivrs.Group(vcpus=[0], program=ping)])
posted: int = ipivrs.Scenario(vm=[vm]).run(engine="virtual-time").counters["posted"]
storm = ipivrs.VM(vcpus=4, workload=ipivrs.Storm(rounds=10))
pending: int = ipivrs.Scenario(vm=[storm], host=ipivrs.Host(pcpus=2)).run(engine="virtual-time").counters["pending"]
assert total > 1000 and holds and posted == 10 and pending == 0, (total, holds, posted, pending)
"""
WRONG_PROGRAM = "import ipivrs\n\nholds: str = ipivrs.check('kvm').holds\n"


def main() -> None:
    """Test what is in the folder that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    look_into_wheel(wheel)
    look_into_source(source)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        use(Environment(place / "wheel", wheel), commit=None, profile="release")
        built = build_again(Environment(place / "build"), source)
        look_into_wheel(built)
        use(Environment(place / "source", built), commit="unknown", profile="debug")
    print("the wheel and the source package are whole")


def files_of_package() -> set[str]:
    """What the Python package is made of, the compiled module left out."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file())
    return {
        str(path.relative_to(ROOT / "python"))
        for path in files
        if path.suffix not in {".so", ".pyc"} and path.name != ".gitignore"
    }


def expect(what: str, found: Iterable[str], wanted: Iterable[str]) -> None:
    """End with the names of what is missing, if something is."""
    if missing := sorted(set(wanted) - set(found)):
        sys.exit(f"{what} lacks {', '.join(missing)}")


def look_into_wheel(wheel: Path) -> None:
    """One wheel for every CPython from 3.10 on, with everything that the package has, and nothing else."""
    say(f"looking into {wheel.name}")
    if "-cp310-abi3-" not in wheel.name:
        sys.exit(f"{wheel.name} is no wheel of the stable ABI of Python 3.10")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    module = "ipivrs/_core.abi3.so"
    described = {name for name in names if ".dist-info/" in name}
    expect(wheel.name, names, {*files_of_package(), module})
    expect(wheel.name, {name.partition("/")[2] for name in described}, {f"licenses/{name}" for name in licences()})
    if strange := names - described - files_of_package() - {module}:
        sys.exit(f"{wheel.name} has {', '.join(sorted(strange))}, which is no part of the package")


def look_into_source(source: Path) -> None:
    """Everything that a build needs, and the versions of the crates that it was tested with."""
    say(f"looking into {source.name}")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    rust = {str(path.relative_to(ROOT)) for path in (ROOT / "rust").rglob("*.rs")}
    beside = {"Cargo.toml", "Cargo.lock", "build.rs", "pyproject.toml", "README.md", "CHANGELOG.md", "PKG-INFO"}
    expect(source.name, names, rust | beside | licences() | {f"python/{name}" for name in files_of_package()})


def licences() -> set[str]:
    """The texts of the licences."""
    return {path.name for path in ROOT.glob("LICENSE-*")}


class Environment:
    """A virtual environment of its own, and a folder to run things in that is no checkout."""

    def __init__(self, folder: Path, wheel: Path | None = None) -> None:
        """Make it, and install a wheel with what it needs."""
        self.folder = folder
        self.work = folder / "work"
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.work.mkdir()
        if wheel:
            say(f"installing {wheel.name} into a clean environment")
            self.run("python", "-m", "pip", "install", "--quiet", str(wheel))

    def run(self, program: str, *arguments: str, status: int = 0, **environment: str) -> str:
        """Run one of its programs, give what it prints."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "VIRTUAL_ENV", "MAKE", "CARGO_TARGET"))
        }
        done = subprocess.run(
            [str(self.folder / "bin" / program), *arguments],
            cwd=self.work,
            env=inherited | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"} | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != status:
            words = " ".join([program, *arguments])
            sys.exit(f"{words}: exit code {done.returncode}, not {status}\n{done.stdout}{done.stderr}")
        return done.stdout


def build_again(environment: Environment, source: Path) -> Path:
    """Build a wheel of the source package, as pip does it. Crates that were compiled before are not compiled again."""
    say(f"building {source.name} outside the checkout")
    out = environment.work / "out"
    options = ["--no-deps", "--wheel-dir", str(out), "--config-settings=build-args=--profile dev"]
    environment.run("python", "-m", "pip", "wheel", *options, str(source), CARGO_TARGET_DIR=str(ROOT / "target"))
    (wheel,) = out.glob("*.whl")
    return wheel


def use(environment: Environment, *, commit: str | None, profile: str) -> None:
    """Run what the README begins with, and code of a user's own."""
    say(f"running ipivrs in {environment.folder.name}'s environment")
    version = environment.run("ipivrs", "--version")
    if version != environment.run("python", "-m", "ipivrs", "--version"):
        sys.exit("python -m ipivrs is not ipivrs")
    built = json.loads(environment.run("ipivrs", "info", "--json"))
    if built["profile"] != profile or (commit and built["commit"] != commit):
        sys.exit(f"{version.strip()}: a {profile} build of commit {commit} was expected")
    environment.run("ipivrs", "explain", "--vector", "0xFB", "--dest", "3", "--vcpus", "4")
    environment.run("ipivrs", "run", str(RECORDING))
    environment.run("ipivrs", "check", "acrn-4778", "--json", status=1)
    environment.run("ipivrs", "profile", "show")
    (environment.work / "grid.toml").write_text('scenario = "ping"\n[grid]\nseed = [1, 2]\n', encoding="utf-8")
    environment.run("ipivrs", "sweep", "grid.toml", "--engine", "virtual-time", "--workers", "1")
    (environment.work / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment.run("python", "program.py", str(RECORDING))
    check_types(environment)


def check_types(environment: Environment) -> None:
    """A type checker finds the types of the installed package, and a mistake in what uses them."""
    for text, status in ((PROGRAM, 0), (WRONG_PROGRAM, 1)):
        (environment.work / "typed.py").write_text(text, encoding="utf-8")
        python = str(environment.folder / "bin" / "python")
        command = [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--python-executable",
            python,
            "typed.py",
        ]
        done = subprocess.run(command, cwd=environment.work, check=False, capture_output=True, text=True)
        if done.returncode != status:
            sys.exit(
                f"mypy on a program of a user's: exit code {done.returncode}, not {status}\n{done.stdout}{done.stderr}"
            )


def say(what: str) -> None:
    """Progress, on stderr."""
    print(f"== {what}", file=sys.stderr)


if __name__ == "__main__":
    main()
