"""Every kind of damage in every week of a quarter is found under live traffic, and nothing clean is ever reported."""

from collections.abc import Generator
from dataclasses import dataclass
from random import Random

import pytest
from psycopg import sql

from migration_assets.domain.fiscal_calendar import FiscalWeek
from migration_assets.embedded.servers import EmbeddedServers
from migration_assets_tests.convergence.comparison import drain, require_converged
from migration_assets_tests.convergence.controller import Controller
from migration_assets_tests.convergence.damage import DAMAGES, Expected, Vandal
from migration_assets_tests.convergence.ordeal import fresh_databases
from migration_assets_tests.convergence.seeds import fresh_seed
from migration_assets_tests.convergence.table import (
    CALENDAR,
    FIRST_RESERVED,
    MIGRATED,
    WRITTEN,
    create_table,
    migration_of,
)
from migration_assets_tests.convergence.workload import writing
from migration_assets_tests.sweeps import telling

QUARTER = MIGRATED[0]
WEEKS = CALENDAR.weeks_of(QUARTER)
NAMES = sorted(DAMAGES)
BATCHES = 4


@dataclass
class Scene:
    """A quarter under CDC with writers at work, and somebody who damages it."""

    controller: Controller
    vandal: Vandal

    def damage(self, chosen: list[tuple[FiscalWeek, str]]) -> Expected:
        expected = Expected()
        with self.controller.migration.databases.session("base", "vandal") as base:
            for week, name in chosen:
                expected.add(self.vandal.inject(base, name, week))
        return expected

    def keep_reserved_rows(self) -> None:
        with self.controller.migration.databases.session("base", "vandal") as base:
            base.execute(
                sql.SQL("CREATE TABLE public.sound AS SELECT * FROM public.bookings WHERE id >= {}").format(
                    FIRST_RESERVED
                )
            )

    def restore_reserved_rows(self) -> None:
        """By hand, since a repair of every week after every batch would take too long; the last batch is repaired."""
        names = sql.SQL(", ").join(map(sql.Identifier, WRITTEN))
        with self.controller.migration.databases.session("base", "vandal") as base, base.transaction():
            base.execute("DELETE FROM public.bookings WHERE id >= %s", [FIRST_RESERVED])
            base.execute(sql.SQL("INSERT INTO public.bookings ({n}) SELECT {n} FROM public.sound").format(n=names))
        self.vandal.healed()


@pytest.fixture(scope="module")
def scene(servers: EmbeddedServers) -> Generator[Scene]:
    seed = fresh_seed()
    print(f"seed {seed}")
    random = Random(seed)
    with fresh_databases(servers) as (legacy_url, base_url):
        create_table(legacy_url, random)
        controller = Controller(migration_of(legacy_url, base_url), random=random)
        controller.prepare()
        with writing(legacy_url, seed):
            controller.copy(WEEKS)
            controller.start(QUARTER)
            scene = Scene(controller, Vandal(random, WEEKS))
            scene.keep_reserved_rows()
            yield scene
        drain(controller.migration)
        require_converged(controller.migration)


def batch_of(week: FiscalWeek, name: str) -> int:
    """Of each week every fourth kind at a time, and in each week others than in the week before."""
    return (week.number + NAMES.index(name)) % BATCHES


# A batch has every week, and every kind in three or four of them.
@pytest.mark.long
@pytest.mark.parametrize("batch", telling(range(BATCHES), {0}))
def test_every_kind_of_damage_is_found_in_every_week(scene: Scene, batch: int) -> None:
    chosen = [(week, name) for week in WEEKS for name in NAMES if batch_of(week, name) == batch]
    expected = scene.damage(chosen)
    scene.controller.require_reconciled(QUARTER, expected)
    for week in WEEKS[batch::BATCHES]:
        scene.controller.require_found(week, expected)
    scene.restore_reserved_rows()
    scene.controller.require_reconciled(QUARTER, Expected())


@pytest.mark.long
def test_a_single_damage_is_found_and_the_other_weeks_stay_clean(scene: Scene, soak: bool) -> None:
    random = scene.controller.random
    for name in random.sample(NAMES, 6 if soak else 1):
        scene.controller.require_reconciled(QUARTER, scene.damage([(random.choice(WEEKS), name)]))
        scene.restore_reserved_rows()


@pytest.mark.long
def test_all_kinds_in_all_weeks_at_once_are_repaired(scene: Scene) -> None:
    expected = scene.damage([(week, name) for week in WEEKS for name in NAMES])
    for week in WEEKS:
        if week.number % BATCHES == 1:
            scene.controller.require_dry(week, expected)
        scene.controller.repair(week, expected)
    scene.controller.require_reconciled(QUARTER, Expected())
