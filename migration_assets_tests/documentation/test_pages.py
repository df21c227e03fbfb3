"""The pages of the documentation build without a warning, and name only what exists."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from migration_assets.definitions import build_defs
from migration_assets.settings import PREFIX, MigrationSettings
from migration_assets_tests.documentation import pictures
from migration_assets_tests.documentation.reference import PROJECT, commands

DOCS = PROJECT / "docs"
PAGES = [PROJECT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if path.parent.name != "reference")]
_NOT_SETTINGS = {f"{PREFIX}SECRETS_FOLDER"}
_COMMAND = re.compile(r"migration-assets ([^`\n|;#]*)")
_SPAN = re.compile(r"`([^`]+)`")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def _named(path: Path) -> str:
    return str(path.relative_to(PROJECT))


def _code(text: str) -> Iterator[str]:
    """Every line of a block of code, and every span of it."""
    for block in _FENCE.findall(text):
        yield from block.splitlines()[1:-1]
    # A span may go over the end of a line.
    yield from (" ".join(span.split()) for span in _SPAN.findall(_FENCE.sub("", text)))


def _unknown_command(words: list[str], known: dict[str, click.Command]) -> str | None:
    """What of it the command line does not have."""
    for length in (2, 1):
        name = " ".join(["migration-assets", *words[:length]])
        if name in known:
            options = {option for one in known[name].params for option in (*one.opts, *one.secondary_opts)} | {"--help"}
            strange = [word.partition("=")[0] for word in words[length:] if word.startswith("--")]
            return next((f"{name} {word}" for word in strange if word not in options), None)
    # A group, or the program, may be named alone.
    groups = {name.rpartition(" ")[0] for name in known}
    name = " ".join(["migration-assets", *[word for word in words[:2] if re.fullmatch(r"[a-z-]+", word)]])
    return None if name in groups else name


@pytest.mark.parametrize("path", PAGES, ids=_named)
def test_every_command_and_option_that_a_page_names_exists(path: Path) -> None:
    known = commands()
    for code in _code(path.read_text()):
        for rest in _COMMAND.findall(code):
            words = [word.strip(",.)") for word in rest.split() if word not in {"…", "[…]"}]
            assert (unknown := _unknown_command(words, known)) is None, f"{path}: no such command: {unknown}"


@pytest.mark.parametrize("path", PAGES, ids=_named)
def test_every_setting_that_a_page_names_exists(path: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in MigrationSettings.model_fields} | _NOT_SETTINGS
    found: set[str] = set(re.findall(rf"\b{PREFIX}[A-Z_]+\*?", path.read_text()))
    families = {name.removesuffix("*") for name in found if name.endswith("*")}
    assert [one for one in families if not any(name.startswith(one) for name in known)] == []
    assert {name.removesuffix("_FILE") for name in found if not name.endswith("*")} - known == set()


@pytest.mark.parametrize("path", PAGES, ids=_named)
def test_every_make_target_that_a_page_names_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {found for code in _code(path.read_text()) for found in re.findall(r"(?:^|\s)make ([a-z-]+)", code)}
    assert named - targets == set()


@pytest.mark.parametrize("path", PAGES, ids=_named)
def test_every_asset_check_job_and_sensor_that_a_page_names_exists(path: Path) -> None:
    """They stand in italics."""
    repository = build_defs().get_repository_def()
    known = {key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()}
    known |= {key.name for key in repository.asset_graph.asset_check_keys}
    known |= {job.name for job in repository.get_all_jobs()}
    known |= {one.name for one in (*repository.sensor_defs, *repository.schedule_defs)}
    named = set(re.findall(r"(?<!\*)\*([a-z]+_[a-z_]+)\b", path.read_text()))
    assert named - known == set()


def test_what_does_not_exist_is_seen() -> None:
    known = commands()
    assert _unknown_command(["stream", "watch"], known) == "migration-assets stream watch"
    assert _unknown_command(["stream", "status", "--often"], known) == "migration-assets stream status --often"
    assert _unknown_command(["observe"], known) == "migration-assets observe"


def test_the_readme_is_short() -> None:
    assert len((PROJECT / "README.md").read_bytes()) <= 8 * 1024


@pytest.mark.parametrize("name", pictures.FROM_CODE)
def test_a_picture_shows_what_the_code_says(name: str) -> None:
    stale = f"docs/images/{name} is stale: run `make reference` and commit what it writes"
    assert (pictures.PICTURES / name).read_text() == pictures.FROM_CODE[name](), stale


def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, str(DOCS), str(tmp_path / "site")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "site" / "reference" / "settings.html").exists()
