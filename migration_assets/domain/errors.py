"""The tree of errors: each says what happened, where, what state is left, and what to do next."""

from migration_assets.domain.fingerprint import Differences, Fingerprint


class MigrationError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        what: What happened, one sentence, no secret.
        where: The slice, table, setting or server it happened to; empty when `what` names it.
        state_left: What is in the databases now, so that nobody has to guess.
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
    """Something of somebody else's has a name that this program needs; it is not touched."""


class SliceStateError(LedgerError):
    """A slice's state does not allow the step."""


class SliceBusyError(MigrationError):
    """Somebody else is working on the slice now."""


class DeletionError(MigrationError):
    """More rows of a week would be deleted than goes without a person's word; nothing was.

    `asks_for` is what a person may confirm of a week, as `FY25-Q2|W05=70`; empty for rows of no week.
    """

    def __init__(self, what: str, *, where: str, state_left: str, next_step: str, asks_for: str = "") -> None:
        self.asks_for = asks_for
        super().__init__(what, where=where, state_left=state_left, next_step=next_step)


class TriggersFireError(MigrationError):
    """What we are about to write would set off triggers, or keys of other tables, that no stream does; nothing was."""


class SliceMismatchError(MigrationError):
    """A slice in the base is not what the legacy holds; carries both fingerprints, and the rows where known."""

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
    """The base's partitions are not as the calendar wants them."""


class EmbeddedServerError(MigrationError):
    """An embedded cluster cannot be created, started or stopped."""


class StreamError(MigrationError):
    """The change stream is not there, does not run, or was changed behind our back."""


class CutError(StreamError):
    """A consistent cut could not be taken; the legacy's writers are free and the stream is as it was."""


class ServerChangedError(StreamError):
    """A server came back as another one, or earlier than it was: nothing that was proven before can be relied on."""


class TableBusyError(MigrationError):
    """Somebody alters a table that is to be read, or waits to do so; nothing was changed, and it may be tried again."""


class UnavailableError(MigrationError):
    """A lock, a connection or a server was not to be had, however often it was tried; the same may succeed later."""


class NoRoomError(UnavailableError):
    """A server has no disk, memory, lock or connection left; what was begun was rolled back."""


class HeldBackError(MigrationError):
    """A copy waited for other load; it was rolled back on both sides, and may be tried again."""


class RightsError(MigrationError):
    """Our role may not do what a step needs; it was rolled back, and a right was taken away or never given."""


class ArchiveError(MigrationError):
    """An archive cannot be written, read or trusted; whatever was there before is as it was."""


class ConnectionLostError(ArchiveError):
    """The server's session went away while rows were read: the same may succeed a little later."""


class RetirementError(MigrationError):
    """A slice must not leave the base, or not yet; lists everything that stands in the way."""


class RestoreError(MigrationError):
    """A slice could not be brought back; the base is as before."""


class SignOffError(MigrationError):
    """The ledger does not prove what a sign-off would claim; lists everything that is missing."""
