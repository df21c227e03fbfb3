"""The tree of errors: each says what happened, where, what state is left, and what to do next."""

from migration_assets.domain.fingerprint import Differences, Fingerprint


class MigrationError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        what: What happened, in one sentence without secrets.
        where: The slice, table, setting or server that it happened to; empty when `what` names it.
        state_left: What is in the databases now.
        next_step: The next command or action.
    """

    def __init__(self, what: str, *, where: str = "", state_left: str = "", next_step: str = "") -> None:
        self.what = what
        self.where = where
        self.state_left = state_left
        self.next_step = next_step
        parts = [f"{where}: {what}" if where else what]
        if state_left:
            parts.append(f"State left: {state_left}")
        if next_step:
            parts.append(f"Next: {next_step}")
        super().__init__("\n".join(parts))


class SettingsError(MigrationError):
    """A setting is missing or wrong; nothing was touched."""


class PoolerError(SettingsError):
    """A connection goes to a pooler and not to the server itself; nothing was touched."""


class CalendarError(MigrationError, ValueError):
    """A fiscal key, date or calendar parameter makes no sense."""


class TableSpecError(MigrationError):
    """The legacy table cannot be described or carried as the settings ask."""


class PreflightError(MigrationError):
    """Preflight is missing, or has findings that block what was asked for."""


class LedgerError(MigrationError):
    """The ledger contradicts what was asked for, or is newer than this program."""


class ForeignObjectError(MigrationError):
    """An object that this program did not create has a name that it needs; the object is not touched."""


class SliceStateError(LedgerError):
    """A slice's state does not allow the step."""


class SliceBusyError(MigrationError):
    """Another step is working on the slice now."""


class DeletionError(MigrationError):
    """More rows would be deleted than is allowed without a confirmation; nothing was deleted.

    `asks_for` is the confirmation that a person can give, such as `FY25-Q2|W05=70`; empty for rows outside every week.
    """

    def __init__(self, what: str, *, where: str, state_left: str, next_step: str, asks_for: str = "") -> None:
        self.asks_for = asks_for
        super().__init__(what, where=where, state_left=state_left, next_step=next_step)


class TriggersFireError(MigrationError):
    """Our writes would fire triggers or foreign key actions that the stream would not fire; nothing was written."""


class SliceMismatchError(MigrationError):
    """A slice differs between base and legacy; the error has both fingerprints, and the differing rows if known."""

    def __init__(
        self,
        legacy: Fingerprint,
        base: Fingerprint,
        *,
        where: str,
        state_left: str,
        next_step: str,
        differences: Differences | None = None,
    ) -> None:
        self.legacy = legacy
        self.base = base
        self.differences = differences
        rows = f" {differences}." if differences else ""
        super().__init__(
            f"the base differs from the legacy.{rows} Legacy: {legacy}. Base: {base}",
            where=where,
            state_left=state_left,
            next_step=next_step,
        )


class PartitionError(MigrationError):
    """The base's partitions do not match the fiscal calendar."""


class EmbeddedServerError(MigrationError):
    """An embedded cluster cannot be created, started or stopped."""


class StreamError(MigrationError):
    """The change stream does not exist, does not run, or was altered by another program."""


class CutError(StreamError):
    """A consistent cut could not be taken; the legacy's writers are not blocked, and the stream is as it was."""


class ServerChangedError(StreamError):
    """A server is another one now, or was restored to an earlier time: earlier proofs can no longer be relied on."""


class TableBusyError(MigrationError):
    """Another session alters a table that we must read, or waits to do so; nothing was changed, and a retry is safe."""


class UnavailableError(MigrationError):
    """A lock, a connection or a server was not available after all retries; the same step may succeed later."""


class NoRoomError(UnavailableError):
    """A server has no disk space, memory, locks or connections left; the transaction was rolled back."""


class HeldBackError(MigrationError):
    """A copy waited too long for other load to end; it was rolled back on both sides and may be retried."""


class RightsError(MigrationError):
    """Our role lacks a right that the step needs; the step was rolled back."""


class ArchiveError(MigrationError):
    """An archive cannot be written, read or trusted; an existing archive is unchanged."""


class ConnectionLostError(ArchiveError):
    """The connection to the server was lost while rows were read; the same step may succeed later."""


class RetirementError(MigrationError):
    """A slice must not leave the base, or not yet; the error lists every reason."""


class RestoreError(MigrationError):
    """A slice could not be restored; the base is as before."""


class SignOffError(MigrationError):
    """The ledger does not prove what a sign-off would claim; the error lists everything that is missing."""
