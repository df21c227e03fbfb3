"""From where the page may be used: the origins that a browser names, and their hosts."""

from dataclasses import dataclass
from urllib.parse import urlsplit

_DEFAULT_PORT = 80


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
        names = {"127.0.0.1", "localhost", host_in_url(host).lower()}
        shown = "" if port == _DEFAULT_PORT else f":{port}"  # browsers leave it out
        return cls(frozenset({f"http://{name}{shown}" for name in names} | set(further)))

    @property
    def hosts(self) -> list[str]:
        """Their names, without ports: a name that was rebound to this machine's address is none of them."""
        return sorted({host_in_url(urlsplit(origin).hostname or "") for origin in self.allowed})


def host_in_url(host: str) -> str:
    """As it stands in a URL and in the header `Host`: an address of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host
