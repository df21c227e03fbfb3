"""Who has a lock is told with the role: whoever may connect can take one, and a person has to know whom to ask."""

import secrets

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from migration_assets.domain.errors import SliceBusyError, StreamError
from migration_assets.postgres.change_stream.records import START_LOCK_CLASS, STREAM_LOCK_CLASS, stream_lock
from migration_assets.postgres.ledger import SLICE_LOCK_CLASS
from migration_assets.postgres.slice_locks import slice_lock
from migration_assets_tests.conftest import Databases as Urls
from migration_assets_tests.postgres.support import SPEC, Ground


def test_a_stranger_who_may_only_connect_is_named_with_his_role(ground: Ground, databases: Urls) -> None:
    ground.fill(91).open()
    role = f"stranger_{secrets.token_hex(4)}"
    owner = psycopg.connect(databases.base_url, autocommit=True)
    owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
    record, relation = ground.record(), SPEC.relation
    url = make_conninfo(databases.base_url, user=role, password="x", application_name="report")
    with psycopg.connect(url, autocommit=True) as stranger, ground.databases.session("base", "test") as base:
        base.execute("SET lock_timeout = '10ms'")
        stranger.execute("SELECT pg_advisory_lock(%s, %s)", [SLICE_LOCK_CLASS, record.lock_key])
        stranger.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [STREAM_LOCK_CLASS, relation])
        who = rf"backend {stranger.info.backend_pid} \(role {role}, connected since 2.*, report\)"
        said = f"is being worked on by {who}"
        with pytest.raises(SliceBusyError, match=said), slice_lock(base, record):
            pass
        with pytest.raises(StreamError, match=said), stream_lock(base, relation):
            pass
        # The same lock of another database is nobody's business here.
        with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as elsewhere:
            elsewhere.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", [START_LOCK_CLASS, relation])
            with stream_lock(base, relation, lock_class=START_LOCK_CLASS):
                pass
    with owner:
        owner.execute(f"DROP ROLE {role}".encode())
