"""The settings as the plan of a cutover, for whoever does one, looks at one, or asks whether one would succeed."""

from migration_assets.cutover.hook import switch
from migration_assets.cutover.plan import CutoverPlan
from migration_assets.runtime import Migration
from migration_assets.stream.plan import StreamPlan


def cutover_plan(migration: Migration, run_id: str | None = None) -> CutoverPlan:
    """The settings as a plan."""
    settings = migration.settings
    url = settings.base_url_for_legacy
    hooked = settings.cutover_hook_command is not None or settings.cutover_hook_url is not None
    return CutoverPlan(
        StreamPlan.of(migration, run_id),
        timeout_seconds=settings.cutover_timeout_seconds,
        lag_seconds=settings.cutover_lag_seconds,
        patience_seconds=settings.cutover_patience_seconds,
        sequence_margin=settings.cutover_sequence_margin,
        compare_all=settings.cutover_compare_all,
        switch=(lambda to, cutover: switch(migration, to, cutover)) if hooked else None,
        base_url_for_legacy=url.get_secret_value() if url else None,
    )
