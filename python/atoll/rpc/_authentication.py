"""Who may call a server: checked by the network threads, before a call has cost a loop anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from atoll._core import AuthenticationCore


@dataclass(frozen=True)
class Unauthenticated:
    """How many calls were answered UNAUTHENTICATED, by the first thing that was wrong with them.

    Attributes:
        token_missing: Without `authorization: Bearer …`.
        token_wrong: With a token that is not valid.
        cluster_id_missing: Without a cluster id where one is required.
        cluster_id_wrong: With another cluster's id.
    """

    token_missing: int
    token_wrong: int
    cluster_id_missing: int
    cluster_id_wrong: int


class Authentication(AuthenticationCore):
    """What a server asks of every call: `rpc.server(auth=rpc.Authentication(...))`. Any thread may use it.

    A call that fails a check is answered UNAUTHENTICATED by the network thread, also for methods that don't exist, and
    is counted. Several servers may share one.

    Args:
        tokens: Calls need one of these, as the metadata `authorization: Bearer TOKEN`; None asks for none. Tokens
            travel as they are, so that a port without TLS shows them to whoever can listen.
        cluster_id: Calls for another cluster, by their metadata `cluster_id_key`, are refused; None for no check.
        cluster_id_key: The metadata that holds the cluster's id.
        require_cluster_id: Whether a call without a cluster id is refused, too.
        exempt_health: Whether `grpc.health.v1.Health` answers without any of this, as load balancers may need it.

    Raises:
        ValueError: When a token or id can't be sent as metadata, or nothing is asked for.
        TypeError: When `tokens` is a string.
    """

    def __new__(
        cls,
        tokens: Sequence[str] | None = None,
        *,
        cluster_id: str | None = None,
        cluster_id_key: str = "atoll-cluster-id",
        require_cluster_id: bool = False,
        exempt_health: bool = False,
    ) -> Self:
        """Checks what is asked for."""
        if tokens is None and cluster_id is None:
            raise ValueError(
                "nothing is asked of a call: pass tokens, cluster_id or both, or leave out the server's auth"
            )
        if cluster_id is not None:
            _check_text("the cluster id", cluster_id)
        valid = None if tokens is None else _checked(tokens)
        return super().__new__(cls, valid, cluster_id, cluster_id_key, require_cluster_id, exempt_health)

    def replace_tokens(self, tokens: Sequence[str]) -> None:
        """Makes these tokens the valid ones, from the next call on. To rotate, pass the new one and the old one first.

        Raises:
            ValueError: When one can't be sent as metadata, there is none, or this was made without tokens.
            TypeError: When `tokens` is a string.
        """
        if not self._replace_tokens(_checked(tokens)):
            raise ValueError("no tokens are asked for here: construct Authentication with tokens")

    def refused(self) -> Unauthenticated:
        """How many calls were refused so far, and why."""
        return Unauthenticated(*self._refused())


def _checked(tokens: Sequence[str]) -> list[str]:
    if isinstance(tokens, (str, bytes)):
        raise TypeError("tokens is a list: write [token] for a single one")
    checked = list(tokens)
    if not checked:
        raise ValueError("there is no valid token, so that nobody could call: pass at least one")
    for index, token in enumerate(checked):
        _check_text(f"token {index}", token)
    return checked


def _check_text(what: str, text: str) -> None:
    """Says what is wrong without showing it: it may be a secret."""
    if not text or not all("!" <= character <= "~" for character in text):
        raise ValueError(f"{what} can't be sent as metadata: use printable ASCII characters without spaces")
