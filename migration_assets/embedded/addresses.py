"""How clients reach the embedded servers, and what is told about them."""

import urllib.parse
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
# Not the name of the ledger's schema: through "$user" the tables of people at psql would land among the ledger's.
SUPERUSER = "migrator"


def server_url(port: int, database: str, passfile: Path) -> str:
    """A libpq URL without a password in it; psycopg, SQLAlchemy, ADBC and subscriptions take it as it is."""
    name = urllib.parse.quote(database, safe="")
    return f"postgresql://{SUPERUSER}@{HOST}:{port}/{name}?passfile={urllib.parse.quote(str(passfile), safe='')}"


@dataclass(frozen=True)
class ServerAddress:
    """How a client reaches a server. The password is in `passfile` only."""

    name: str
    host: str
    port: int
    version: str
    passfile: Path

    def url(self, database: str) -> str:
        """A libpq URL that names the password file instead of the password."""
        return server_url(self.port, database, self.passfile)


@dataclass(frozen=True)
class ServerStatus:
    """What a server is doing now.

    Attributes:
        name: `legacy` or `base`.
        version: Full version such as `16.14`.
        port: The port that it keeps.
        pid: Of the postmaster; None when it does not accept connections.
        running: Whether it really accepts connections.
        data_folder: Absolute.
        size_bytes: Of the data folder, write-ahead log included.
    """

    name: str
    version: str
    port: int
    pid: int | None
    running: bool
    data_folder: Path
    size_bytes: int
