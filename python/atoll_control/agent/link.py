"""`Link`: the connection to the servers, which is made anew where the one before may be stuck. One loop only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atoll_control.client import AsyncClient

if TYPE_CHECKING:
    from pathlib import Path

    from atoll_control.agent.settings import LinkSettings


class Link:
    """A client, and another one when that is no use any more.

    Attributes:
        client: to be used until the next `renew`.
    """

    def __init__(self, settings: LinkSettings) -> None:
        """Connects when it is used.

        Raises:
            ValueError: an address is none.
            OSError: the token's file can't be read.
        """
        self._settings = settings
        self.client = self._connect(settings.servers)

    async def renew(self, *, avoid: str = "") -> None:
        """Closes the connections, and makes new ones with the token that holds now. No call may be under way.

        Args:
            avoid: a server that is to be asked last.

        Raises:
            OSError: the token's file can't be read.
        """
        servers = self._settings.servers
        if avoid in servers:
            next_one = servers.index(avoid) + 1
            servers = servers[next_one:] + servers[:next_one]
        client = self._connect(servers)
        await self.client.close()
        self.client = client

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()

    def _connect(self, servers: tuple[str, ...]) -> AsyncClient:
        settings = self._settings
        return AsyncClient(servers, token=token_of(settings.token, settings.token_file), tls=settings.tls)


def token_of(token: str | None, file: Path | None) -> str | None:
    """The token that holds now: that of the file, if there is one.

    Raises:
        OSError: the file can't be read.
        ValueError: it can't be one.
    """
    if file is not None:
        token = file.read_text(errors="replace").strip()
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("the token has spaces or characters that no token has: is the right file named?")
    return token or None
