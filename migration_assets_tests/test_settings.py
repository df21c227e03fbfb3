"""Settings come from MIGRATION_* alone; a wrong one is named, and no secret is ever shown."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from migration_assets.domain.errors import SettingsError
from migration_assets.domain.fiscal_calendar import FiscalCalendar
from migration_assets.domain.session_places import needed
from migration_assets.domain.table_spec import QualifiedName
from migration_assets.settings import MigrationSettings, load_settings
from migration_assets.stream.plan import StreamLimits

_SECRET = "s3cr3t"
_URL = "postgresql://u:pw@host:5432/db"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # pyright: ignore[reportUnusedFunction]
    """No variable of the machine, and no .env of the checkout."""
    for name in [name for name in os.environ if name.upper().startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_an_empty_environment_gives_the_demo() -> None:
    settings = load_settings()
    assert settings.embedded
    assert settings.spec().table == QualifiedName("public", "amenity_bookings")
    assert settings.control_column == "booked_at"
    assert settings.calendar() == FiscalCalendar(1, 1, "UTC")
    assert (settings.legacy_url, settings.base_url, settings.dagster_url, settings.as_of) == (None, None, None, None)
    assert settings.var == Path("var").absolute()


def test_the_pages_further_addresses_are_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_UI_ORIGINS", "https://a.example/, http://localhost:8000 http://[::1]:8000")
    assert load_settings().ui_origins == ("https://a.example", "http://localhost:8000", "http://[::1]:8000")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TABLE", "a.b.c"),
        ("TABLE", ""),
        ("TABLE", "drop table x"),
        ("FISCAL_START_MONTH", "0"),
        ("FISCAL_START_MONTH", "13"),
        ("FISCAL_START_MONTH", "April"),
        ("FISCAL_LABEL_OFFSET", "1.5"),
        ("AS_OF", "yesterday"),
        ("PARALLEL_COPIES", "0"),
        ("PARALLEL_COPIES", "65"),
        ("WINDOW_HOURS", "0"),
        ("WINDOW_HOURS", "nan"),
        ("TARGET_GB_PER_HOUR", "-1"),
        ("LOCK_TIMEOUT_MS", "9"),
        ("LOCK_PATIENCE_SECONDS", "-1"),
        ("COPY_TIMEOUT_SECONDS", "9"),
        ("IDLE_TIMEOUT_SECONDS", "0"),
        ("RETRY_ATTEMPTS", "0"),
        ("MAINTENANCE_WORK_MEM_MB", "0"),
        ("PROGRESS_SECONDS", "0"),
        ("UI_ORIGINS", "https://a.example/path"),
        ("UI_ORIGINS", "https://*.example"),
        ("UI_ORIGINS", "https://a.example:443"),
        ("UI_ORIGINS", "https://A.example"),
        ("UI_ORIGINS", "a.example"),
        ("LEGACY_URL", "mysql://host/db"),
        ("BASE_URL", ""),
        ("DAGSTER_URL", "host=x dbname=y"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"MIGRATION_{name}", value)
    with pytest.raises(SettingsError, match=rf"MIGRATION_{name}\b"):
        load_settings()


@pytest.mark.parametrize(("name", "value"), [("TIME_ZONE", "Mars/Base"), ("LABEL_OFFSET", "99999")])
def test_an_impossible_calendar_is_refused_by_the_names_of_its_variables(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"MIGRATION_FISCAL_{name}", value)
    with pytest.raises(SettingsError, match=r"MIGRATION_FISCAL_") as caught:
        load_settings()
    assert value in str(caught.value)


def test_all_wrong_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_PARALLEL_COPIES", "0")
    monkeypatch.setenv("MIGRATION_WINDOW_HOURS", "x")
    with pytest.raises(SettingsError, match=r"MIGRATION_PARALLEL_COPIES.*MIGRATION_WINDOW_HOURS"):
        load_settings()


@pytest.mark.parametrize("name", ["MIGRATION_LEGCY_URL", "migration_tabel", "MIGRATION_"])
def test_an_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, _SECRET)
    with pytest.raises(SettingsError, match=f"unknown: {name}") as caught:
        load_settings()
    assert _SECRET not in str(caught.value)


def test_an_unknown_variable_in_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MIGRATION_TABEL=x\nOTHER=y\n")
    with pytest.raises(SettingsError, match="unknown: MIGRATION_TABEL"):
        load_settings()


def test_the_file_is_read_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MIGRATION_TABLE='\"My Schema\".bookings'\nMIGRATION_PARALLEL_COPIES=3\nOTHER=1\n")
    monkeypatch.setenv("MIGRATION_PARALLEL_COPIES", "4")
    settings = load_settings()
    assert settings.spec().table == QualifiedName("My Schema", "bookings")
    assert settings.parallel_copies == 4
    assert load_settings(env_file=None).table == "public.amenity_bookings"
    assert load_settings(parallel_copies=5).parallel_copies == 5


@pytest.mark.parametrize(
    "value",
    [
        f"mysql://u:{_SECRET}@h/d",
        f"//u:{_SECRET}@h/d",
        f"{_SECRET}",
        f"postgresql//u:{_SECRET}@h/d",
        f"postgresql://u:{_SECRET}@[::1/d",
    ],
)
@pytest.mark.parametrize("name", ["LEGACY_URL", "BASE_URL", "DAGSTER_URL"])
def test_a_wrong_url_never_shows_its_password(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"MIGRATION_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    error: BaseException | None = caught.value
    while error is not None:
        assert _SECRET not in str(error)
        error = None if error.__suppress_context__ else error.__cause__ or error.__context__


def test_a_password_with_odd_letters_is_not_shown_by_the_parser_of_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_DAGSTER_URL", f"postgresql://u:{_SECRET}\u2100x@host/db")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert _SECRET not in str(caught.value)


@pytest.mark.parametrize(("given", "missing"), [("LEGACY_URL", "BASE_URL"), ("BASE_URL", "LEGACY_URL")])
def test_one_url_without_the_other_is_refused(monkeypatch: pytest.MonkeyPatch, given: str, missing: str) -> None:
    monkeypatch.setenv(f"MIGRATION_{given}", _URL)
    with pytest.raises(SettingsError, match=f"MIGRATION_{missing} is not set"):
        load_settings()


def test_both_urls_replace_the_demo_and_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_LEGACY_URL", f"postgres://u:{_SECRET}@h/d")
    monkeypatch.setenv("MIGRATION_BASE_URL", f"postgresql://u:{_SECRET}@h/d")
    settings = load_settings()
    assert not settings.embedded
    assert settings.base_url is not None
    assert settings.base_url.get_secret_value() == f"postgresql://u:{_SECRET}@h/d"
    assert _SECRET not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_time_without_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_AS_OF", "2024-06-24T12:00")
    assert load_settings().as_of == datetime(2024, 6, 24, 12, tzinfo=UTC)
    monkeypatch.setenv("MIGRATION_AS_OF", "2024-06-24T12:00+02:00")
    assert load_settings().as_of == datetime(2024, 6, 24, 10, tzinfo=UTC)


def test_the_control_column_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIGRATION_CONTROL_COLUMN", "Booked At")
    assert load_settings().spec().control_column == "Booked At"


def test_settings_cannot_be_changed_afterwards() -> None:
    settings = MigrationSettings()
    with pytest.raises(ValidationError):
        settings.table = "other"


@pytest.mark.parametrize("where", ["environment", ".env"])
def test_a_secret_may_lie_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    url = "postgresql://me:s3cret@h/db"
    (tmp_path / "legacy").write_text(f"{url}\n")
    (tmp_path / "alerts").write_text("json://a/s3cret json://b")
    lines = {
        "MIGRATION_LEGACY_URL_FILE": str(tmp_path / "legacy"), "MIGRATION_BASE_URL": url,
        "MIGRATION_ALERT_URLS_FILE": str(tmp_path / "alerts"),
    }  # fmt: skip
    dotenv = tmp_path / ".env"
    dotenv.write_text("".join(f"{name}={value}\n" for name, value in lines.items()) if where == ".env" else "")
    if where == "environment":
        for name, value in lines.items():
            monkeypatch.setenv(name, value)
    loaded = load_settings(env_file=dotenv)
    assert loaded.legacy_url is not None
    assert loaded.legacy_url.get_secret_value() == url
    assert [one.get_secret_value() for one in loaded.alert_urls] == ["json://a/s3cret", "json://b"]
    assert "s3cret" not in repr(loaded)


def test_a_file_of_a_secret_that_cannot_be_used_is_named_and_nothing_of_it_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "url"
    monkeypatch.setenv("MIGRATION_LEGACY_URL_FILE", str(file))
    with pytest.raises(SettingsError, match=r"LEGACY_URL_FILE: the file cannot be read \(FileNotFoundError\)"):
        load_settings(env_file=None)
    file.write_bytes(b"s3cret\xff")
    with pytest.raises(SettingsError, match="UnicodeDecodeError"):
        load_settings(env_file=None)
    file.write_text("mysql://me:s3cret@h/db")
    with pytest.raises(SettingsError, match="MIGRATION_LEGACY_URL: ") as caught:
        load_settings(env_file=None)
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("MIGRATION_LEGACY_URL", "postgresql://h/db")
    with pytest.raises(SettingsError, match="MIGRATION_LEGACY_URL and MIGRATION_LEGACY_URL_FILE are both set"):
        load_settings(env_file=None)
    monkeypatch.setenv("MIGRATION_TABLE_FILE", str(file))
    with pytest.raises(SettingsError, match="unknown: MIGRATION_TABLE_FILE"):
        load_settings(env_file=None)


def test_secrets_may_lie_in_a_folder_in_files_called_like_their_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "secrets"
    monkeypatch.setenv("MIGRATION_SECRETS_FOLDER", str(folder))
    with pytest.raises(SettingsError, match=r"SECRETS_FOLDER: the folder or .* be read \(FileNotFound"):
        load_settings(env_file=None)
    folder.mkdir()
    assert load_settings(env_file=None).embedded
    (folder / "MIGRATION_LEGACY_URL").write_text("postgresql://me:s3cret@h/legacy\n")
    (folder / "migration_base_url").write_text("postgresql://me:s3cret@h/base")
    (folder / "of_another_program").write_text("x")
    loaded = load_settings(env_file=None)
    assert (loaded.legacy_url, loaded.base_url) == (
        SecretStr("postgresql://me:s3cret@h/legacy"),
        SecretStr("postgresql://me:s3cret@h/base"),
    )
    assert "s3cret" not in repr(loaded)
    assert "MIGRATION_SECRETS_FOLDER" not in loaded.environment_without_secrets()
    monkeypatch.setenv("MIGRATION_BASE_URL", "postgresql://h/other")
    assert load_settings(env_file=None).base_url == SecretStr("postgresql://h/other"), "the environment goes first"
    (folder / "MIGRATION_LEGACY_URLS").write_text("x")
    with pytest.raises(SettingsError, match="unknown: MIGRATION_LEGACY_URLS"):
        load_settings(env_file=None)
    (folder / "MIGRATION_LEGACY_URLS").write_bytes(b"s3cret\xff")
    with pytest.raises(SettingsError, match="UnicodeDecodeError") as caught:
        load_settings(env_file=None)
    assert "s3cret" not in str(caught.value)


def test_limits_of_sessions_let_fewer_weeks_run_at_once_and_refuse_where_not_even_one_fits() -> None:
    wanted = {"parallel_copies": 8}
    assert load_settings(env_file=None, **wanted).weeks_at_once == 8
    for weeks in (1, 3, 8):
        places = needed(weeks)
        fitting = load_settings(env_file=None, **wanted, legacy_sessions=places.legacy, base_sessions=places.base + 100)
        assert fitting.weeks_at_once == weeks
        assert open_limits(fitting) == weeks
        assert load_settings(env_file=None, **wanted, base_sessions=places.base).weeks_at_once == weeks
    with pytest.raises(SettingsError, match=f"MIGRATION_LEGACY_SESSIONS to {needed(1).legacy} or more"):
        load_settings(env_file=None, **wanted, legacy_sessions=needed(1).legacy - 1)


def open_limits(settings: MigrationSettings) -> int:
    """How many weeks a step on many of them works on at once."""
    return StreamLimits.of(settings).parallel
