"""The watch's settings: limits that make sense together, and channels that stay secret."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from migration_assets.copying.throttle import ThrottleLimits
from migration_assets.domain.errors import SettingsError
from migration_assets.domain.samples import StreamThresholds
from migration_assets.runtime import open_migration
from migration_assets.settings import load_settings

_SECRET = "s3cr3t"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # pyright: ignore[reportUnusedFunction]
    """No variable of the machine, and no .env of the checkout."""
    for name in [name for name in os.environ if name.upper().startswith("MIGRATION_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("warning", "critical"),
    [("LAG_WARNING_SECONDS", "LAG_CRITICAL_SECONDS"), ("RETAINED_WAL_WARNING_GB", "RETAINED_WAL_CRITICAL_GB")],
)
def test_a_warning_over_its_critical_limit_is_refused(
    monkeypatch: pytest.MonkeyPatch, warning: str, critical: str
) -> None:
    monkeypatch.setenv(f"MIGRATION_{warning}", "1000")
    with pytest.raises(SettingsError, match=f"MIGRATION_{warning} is over MIGRATION_{critical}"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RECORD_DAYS", "1e12"), ("QUARANTINE_DAYS", "inf"), ("VALIDATION_MAX_AGE_HOURS", "1e9"),
     ("REALERT_MINUTES", "1e300"), ("COPY_TIMEOUT_SECONDS", "99999999999")],
)  # fmt: skip
def test_what_is_to_last_for_ever_is_refused_where_no_clock_could_tell_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """Whoever wants to keep something for ever writes many nines: each look of the watch would fail at them."""
    monkeypatch.setenv(f"MIGRATION_{name}", value)
    with pytest.raises(SettingsError, match=f"MIGRATION_{name} is over [0-9,]+: longer than"):
        load_settings()
    monkeypatch.setenv(f"MIGRATION_{name}", "30000")
    load_settings()


def test_alert_urls_are_separated_by_spaces_or_commas_and_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = ["mailto://u:s3cr3t@example.org?to=a@example.org,b@example.org", "slack://s3cr3t/x", "json://h:1/s3cr3t"]
    monkeypatch.setenv("MIGRATION_ALERT_URLS", f" {urls[0]},{urls[1]}\t {urls[2]} ")
    settings = load_settings()
    assert [url.get_secret_value() for url in settings.alert_urls] == urls
    assert _SECRET not in repr(settings) + str(settings.alert_urls) + settings.model_dump_json()
    monkeypatch.setenv("MIGRATION_ALERT_URLS", "")
    assert load_settings().alert_urls == ()


@pytest.mark.parametrize("value", [_SECRET, f"//{_SECRET}@h", f"1://{_SECRET}", f"{_SECRET}, json://h/x"])
def test_a_wrong_alert_url_is_refused_and_never_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MIGRATION_ALERT_URLS", value)
    with pytest.raises(SettingsError, match="MIGRATION_ALERT_URLS") as caught:
        load_settings()
    assert _SECRET not in str(caught.value)


def test_the_settings_become_thresholds_and_limits(tmp_path: Path) -> None:
    settings = load_settings(
        var=tmp_path, legacy_url=SecretStr("postgresql://h/l"), base_url=SecretStr("postgresql://h/b"),
        lag_warning_seconds=3, throttle_lag_seconds=4, throttle_retained_wal_gb=0, throttle_patience_seconds=5,
        throttle_snapshot_seconds=6,
    )  # fmt: skip
    migration = open_migration(settings)
    assert migration.thresholds == replace(StreamThresholds(), lag_warning_seconds=3)
    assert ThrottleLimits.of(settings) == ThrottleLimits(lag_seconds=4, patience_seconds=5, snapshot_seconds=6)
