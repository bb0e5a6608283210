"""`ServeOptions`: what can be set of `atollctl serve`, each declared once; a new setting is a new field here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - the types of settings are read
from typing import TYPE_CHECKING, Final

from atoll.store import EtcdOptions
from atoll_control.api.addresses import split_address
from atoll_control.cli.configuration import setting
from atoll_control.server.detector import DetectorSettings
from atoll_control.server.kv_manager import KvSettings
from atoll_control.server.logs import LogFormat
from atoll_control.server.security import (
    SecuritySettings,
    SecuritySettingsError,
    check_listen,
    check_place_of_first_token,
    is_loopback,
)
from atoll_control.server.settings import ServerSettings
from atoll_control.server.term import reachable

if TYPE_CHECKING:
    from atoll_control.cli.configuration import Configuration

_MIN_DATA_BYTES: Final = 1 << 20


def _address_problem(address: str) -> str | None:
    if split_address(address) is None:
        return f'must be HOST:PORT, for example 127.0.0.1:50051 or "[::1]:50051"; got {address!r}'
    return None


def _observe_problem(address: str) -> str | None:
    if address.startswith("unix:") and len(address) > len("unix:"):
        return None
    if address.startswith("unix:") or split_address(address) is None:
        return f"must be HOST:PORT or unix:PATH, for example 127.0.0.1:9464 or unix:/run/atoll.sock; got {address!r}"
    return None


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The settings of `atollctl serve`."""

    listen: str = setting(
        "127.0.0.1:50051",
        metavar="HOST:PORT",
        check=_address_problem,
        help="Address to listen on. Port 0 takes a free one; the log says which.",
    )
    data_dir: Path | None = setting(
        None,
        metavar="DIRECTORY",
        help="Where nodes, keys and leases are kept; made if it is not there. Without it they are kept in memory, and "
        "are lost when the server ends.",
    )
    max_data_bytes: int | None = setting(
        None,
        metavar="BYTES",
        minimum=_MIN_DATA_BYTES,
        help="How large the database may grow; then changes are refused and reads go on.",
    )
    etcd: tuple[str, ...] = setting(
        (),
        metavar="URL,...",
        help="Keep everything in this etcd instead of a directory, as one of several servers of which one leads and "
        "the others stand by: its members' addresses, as in http://10.0.0.1:2379,http://10.0.0.2:2379.",
    )
    etcd_prefix: str = setting(
        "/atoll/", metavar="PREFIX", help="What all keys in etcd begin with; no others are touched."
    )
    etcd_user: str | None = setting(None, metavar="NAME", help="As whom to log in to etcd.")
    etcd_password_file: Path | None = setting(
        None, metavar="FILE", help="The file with that user's password: its first line."
    )
    etcd_ca: Path | None = setting(
        None, metavar="FILE", help="Who signs the certificates of etcd (PEM); for addresses that begin with https."
    )
    etcd_cert: Path | None = setting(None, metavar="FILE", help="This server's certificate for etcd (PEM).")
    etcd_key: Path | None = setting(None, metavar="FILE", help="The private key of that certificate (PEM).")
    advertise: str | None = setting(
        None,
        metavar="HOST:PORT",
        check=_address_problem,
        help="Where clients reach this server, if that is not the address it listens on: standbys tell them.",
    )
    max_kv_bytes: int = setting(
        KvSettings().max_total_bytes,
        metavar="BYTES",
        minimum=1,
        help="What all keys and values together may take in memory; then puts are refused and reads go on.",
    )
    heartbeat_interval: float = setting(
        2.0,
        metavar="SECONDS",
        help="Nodes are told to send a heartbeat this often, and less often when there are many.",
    )
    dead_after: float = setting(
        12.0,
        metavar="SECONDS",
        help="A node without a sign of life for this long is dead. At least four times the interval; it is suspect, "
        "and probed, after half of it. Time in which the server itself was late does not count against nodes.",
    )
    observe_only: bool = setting(
        default=False, help="Log who would be marked dead, and mark nobody: for trying thresholds."
    )
    insecure_beyond_loopback: bool = setting(
        default=False,
        help="Listen on addresses that other machines reach without TLS, although whoever is on the way may read and "
        "change everything, tokens included.",
    )
    tls_cert: Path | None = setting(
        None,
        metavar="FILE",
        help="The server's certificate chain (PEM); the port then speaks TLS only. This file and the next two are "
        "read again when they change.",
    )
    tls_key: Path | None = setting(None, metavar="FILE", help="The private key of that certificate (PEM).")
    tls_client_ca: Path | None = setting(
        None, metavar="FILE", help="Who vouches for clients (PEM): each must show a certificate of theirs."
    )
    tokens: bool = setting(
        default=False,
        help="Ask every call for a token. The first start puts one for an administrator into the data directory, as "
        "admin-token.",
    )
    admin_token_file: Path | None = setting(
        None,
        metavar="FILE",
        help="Its content is a token of an administrator that is always valid. Required with tokens where there is no "
        "data directory.",
    )
    observe: str | None = setting(
        None,
        metavar="HOST:PORT|unix:PATH",
        check=_observe_problem,
        help="Where /livez, /readyz and /metrics are answered, natively: while every loop is stuck, too. {pid} stands "
        "for the process's id.",
    )
    observe_beyond_loopback: bool = setting(
        default=False,
        help="Let --observe be an address that other machines reach, such as a kubelet and Prometheus. They can change "
        "nothing there, and learn names of methods and loops, and how much there is of what.",
    )
    liveness_threshold: float = setting(
        60.0,
        metavar="SECONDS",
        minimum=1,
        help="A loop without progress for longer makes /livez fail.",
    )
    network_threads: int | None = setting(
        None,
        metavar="N",
        minimum=1,
        maximum=1024,
        help="Native threads that read and write connections. Default: chosen by Atoll.",
    )
    grace: float = setting(
        5.0,
        metavar="SECONDS",
        minimum=0,
        help="What running calls get to finish when the server stops; watches are ended at once.",
    )
    log_format: LogFormat = setting(
        LogFormat.CONSOLE, help="Log lines for people or for machines, one per event, on standard error."
    )
    demo_controls: bool = setting(
        default=False, flag_only=True, help="Offer the service by which `atoll demo` slows a module down."
    )
    one_loop: bool = setting(default=False, flag_only=True, help="Put all modules on one loop, for comparison.")
    exit_with_stdin: bool = setting(default=False, flag_only=True, help="Stop when standard input closes.")


def _etcd_options(configuration: Configuration[ServeOptions]) -> EtcdOptions | None:
    options = configuration.options
    if not options.etcd:
        return None
    if options.data_dir is not None:
        raise configuration.wrong("data_dir", "everything is kept in etcd or in a directory: name one of them")
    password = None
    if options.etcd_password_file is not None:
        try:
            password = options.etcd_password_file.read_text("utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise configuration.wrong("etcd_password_file", f"can't be read: {error}") from None
    for name, path in (("etcd_ca", options.etcd_ca), ("etcd_cert", options.etcd_cert), ("etcd_key", options.etcd_key)):
        if path is not None and not path.is_file():
            raise configuration.wrong(name, f"there is no file {path}")
    etcd = EtcdOptions(
        endpoints=options.etcd,
        prefix=options.etcd_prefix,
        user=options.etcd_user,
        password=password,
        ca=options.etcd_ca,
        cert=options.etcd_cert,
        key=options.etcd_key,
    )
    try:
        etcd.checked()
    except (ValueError, OSError) as error:
        raise configuration.wrong("etcd", str(error)) from None
    if not (options.advertise or reachable(options.listen)):
        raise configuration.wrong(
            "advertise",
            f"clients have to be told where this server is, and {options.listen} does not say by which of its "
            "addresses it is reached: name HOST:PORT",
        )
    return etcd


def _security(configuration: Configuration[ServeOptions]) -> SecuritySettings:
    options = configuration.options
    try:
        security = SecuritySettings(
            tls_cert=options.tls_cert,
            tls_key=options.tls_key,
            tls_client_ca=options.tls_client_ca,
            tokens=options.tokens,
            admin_token_file=options.admin_token_file,
        )
        check_place_of_first_token(security, options.data_dir)
        check_listen(security, options.listen, insecure=options.insecure_beyond_loopback)
    except SecuritySettingsError as error:
        name, _, problem = str(error).partition(": ")
        raise configuration.wrong(name, problem) from None
    return security


def server_settings(configuration: Configuration[ServeOptions]) -> ServerSettings:
    """What the server is told.

    Raises:
        ConfigurationError: settings that are fine each by itself don't go together.
    """
    options = configuration.options
    security = _security(configuration)
    address = options.observe
    is_local = address is None or address.startswith("unix:") or is_loopback(address)
    if address is not None and not (is_local or options.observe_beyond_loopback):
        raise configuration.wrong(
            "observe",
            f"{address.rpartition(':')[0]} may be reached from other machines: listen on 127.0.0.1, or say "
            "--observe-beyond-loopback if they may learn how this server does",
        )
    try:
        detector = DetectorSettings.scaled(
            heartbeat_interval=options.heartbeat_interval,
            dead_after=options.dead_after,
            observe_only=options.observe_only,
        )
    except ValueError as error:
        name, _, problem = str(error).partition(": ")
        raise configuration.wrong(name, problem) from None
    return ServerSettings(
        listen=options.listen,
        advertise=options.advertise,
        etcd=_etcd_options(configuration),
        data_dir=options.data_dir,
        max_data_bytes=options.max_data_bytes,
        detector=detector,
        kv=KvSettings(max_total_bytes=options.max_kv_bytes),
        security=security,
        observe=None if options.observe is None else options.observe.replace("{pid}", str(os.getpid())),
        observe_beyond_loopback=options.observe_beyond_loopback,
        liveness_threshold=options.liveness_threshold,
        network_threads=options.network_threads,
        grace=options.grace,
        demo_controls=options.demo_controls,
        one_loop=options.one_loop,
        exit_with_stdin=options.exit_with_stdin,
    )
