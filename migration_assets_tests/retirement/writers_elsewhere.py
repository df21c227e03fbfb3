"""Writers of every kind in all weeks of the quarter but those at rest."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from random import Random

import psycopg

from migration_assets_tests.ground import Ground

ROWS = 1820
"""Of `Ground.fill`: 140 a week."""
_UPSERT = (
    "INSERT INTO bookings (id, booked_at, price) VALUES (%(id)s, %(at)s, 1.50) ON CONFLICT (id) DO UPDATE"
    " SET booked_at = excluded.booked_at, price = excluded.price"
)
_STATEMENTS = (
    "UPDATE bookings SET guests = coalesce(guests, 0) + 1 WHERE id = %(id)s",
    "UPDATE bookings SET note = repeat('n', 3000) WHERE id = %(id)s",
    "UPDATE bookings SET booked_at = %(at)s WHERE id = %(id)s",
    "DELETE FROM bookings WHERE id = %(id)s",
    _UPSERT,
)
_WEEK_SECONDS = 7 * 86_400


@contextmanager
def writing(ground: Ground, seed: int, *resting: int) -> Generator[None]:
    """Two writers, each with rows of its own, for as long as the body runs.

    Raises:
        AssertionError: One of them was refused by the legacy.
    """
    ids = [n for n in range(1, ROWS + 1) if n % 91 // 7 + 1 not in resting]
    weeks = [number for number in range(1, 14) if number not in resting]
    stop, failed = threading.Event(), list[BaseException]()

    def write(number: int) -> None:
        random = Random(f"{seed}/{number}")
        try:
            with psycopg.connect(ground.databases.legacy_url, autocommit=True) as connection:
                while not stop.is_set():
                    with connection.transaction():
                        for _ in range(random.randint(1, 4)):
                            offset = _WEEK_SECONDS * (random.choice(weeks) - 1) + random.randrange(_WEEK_SECONDS)
                            at = f"'2024-04-01 00:00+00'::timestamptz + interval '{offset} s'"
                            statement = random.choice(_STATEMENTS).replace("%(at)s", at)
                            connection.execute(statement.encode(), {"id": random.choice(ids[number::2])})
                    time.sleep(random.uniform(0, 0.01))
        except psycopg.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed
