"""From where the page may be used: the origins that a browser names, and their hosts."""

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Origins:
    """Where the page is at home: everything else in a browser is a stranger.

    Attributes:
        allowed: As browsers write them in `Origin`: `http://127.0.0.1:3000`.
    """

    allowed: frozenset[str]

    @classmethod
    def of(cls, host: str, port: int, further: tuple[str, ...] = ()) -> "Origins":
        """This machine's names at the port, the address that is listened on, and those of a setting."""
        names = {"127.0.0.1", "localhost", host}
        return cls(frozenset({f"http://{name}:{port}" for name in names} | set(further)))

    @property
    def hosts(self) -> list[str]:
        """Their names, without ports: a name that was rebound to this machine's address is none of them."""
        return sorted({urlsplit(origin).hostname or "" for origin in self.allowed})
