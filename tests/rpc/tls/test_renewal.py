"""Certificates that are replaced while the server serves: by hand, from files, and by a function."""

import asyncio
import gc
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.rpc.conftest import Log
from tests.rpc.support import ClientProcess, path, until
from tests.rpc.tls.support import Pem, client_context, connect, handshakes, mutual, secured, shown_certificate

from atoll import rpc
from atoll.errors import CertificateError

# Soon enough for a test, and late enough to show that a renewal by hand does not wait for it.
SOON = 0.02
NEVER = 3600.0


def renewers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "atoll-certificates"]


async def shown(target: str) -> bytes:
    return await asyncio.to_thread(shown_certificate, target)


async def until_shown(target: str, certificate: bytes) -> None:
    async with asyncio.timeout(20):
        while await shown(target) != certificate:  # noqa: ASYNC110 - another thread brings it about
            await asyncio.sleep(0.01)


async def test_new_handshakes_use_what_was_replaced_and_old_connections_stay(client: ClientProcess, pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server")])
    async with secured(credentials) as (server, target):
        channel = pem.channel()
        before = await client.call(target, path("Answer"), channel=channel)
        assert await shown(target) == pem.der("server")
        credentials.certificates.replace([pem.pair("renewed")])
        assert await shown(target) == pem.der("renewed")
        after = await client.call(target, path("Answer"), channel=channel)
        assert (before.code, after.reply) == ("OK", before.reply), "the connection is the same"
        assert (await client.call(target, path("Answer"), channel=pem.channel())).code == "OK"
        assert handshakes(server, "finished") == 4


async def test_roots_are_replaced_too_and_kept_when_none_are_given(client: ClientProcess, pem: Pem) -> None:
    credentials = mutual(pem)

    async def codes(target: str) -> list[str]:
        names = ("client", "strange-client")
        calls = [client.call(target, path("Answer"), channel=pem.channel(own=own)) for own in names]
        return [outcome.code for outcome in await asyncio.gather(*calls)]

    async with secured(credentials) as (_, target):
        assert await codes(target) == ["OK", "UNAVAILABLE"]
        credentials.certificates.replace([pem.pair("renewed")], pem.read("stranger.pem"))
        assert await codes(target) == ["UNAVAILABLE", "OK"]
        credentials.certificates.replace([pem.pair("server")])
        assert await codes(target) == ["UNAVAILABLE", "OK"]


async def test_what_cannot_be_used_changes_nothing(pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server")])
    async with secured(credentials) as (_, target):
        with pytest.raises(CertificateError):
            credentials.certificates.replace([(pem.read("renewed.key"), pem.read("server.pem"))])
        with pytest.raises(CertificateError):
            credentials.certificates.replace([pem.pair("renewed")], b"none")
        assert await shown(target) == pem.der("server")


async def test_any_thread_may_replace_while_clients_come(client: ClientProcess, pem: Pem) -> None:
    credentials = rpc.ssl_server_credentials([pem.pair("server")])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for name in ("renewed", "rsa", "server"):
                credentials.certificates.replace([pem.pair(name)])

    threads = [threading.Thread(target=replace) for _ in range(2)]
    async with secured(credentials) as (_, target):
        for thread in threads:
            thread.start()
        calls = [client.call(target, path("Answer"), channel=pem.channel()) for _ in range(20)]
        outcomes = await asyncio.gather(*calls)
        stop.set()
    for thread in threads:
        thread.join()
    assert {outcome.code for outcome in outcomes} == {"OK"}


# ---------------------------------------------------------------------------------------------------------------- files


class Files:
    """Certificates as files that can be replaced."""

    def __init__(self, folder: Path, pem: Pem) -> None:
        self.key, self.chain, self.roots = folder / "tls.key", folder / "tls.pem", folder / "roots.pem"
        self._pem = pem
        self.put("server")
        self.put_roots("authority")

    def put(self, name: str) -> None:
        # As one step each, so that no half of a file is ever read.
        for source, to in ((f"{name}.pem", self.chain), (f"{name}.key", self.key)):
            shutil.copy(self._pem.path(source), to.with_suffix(".new"))
            to.with_suffix(".new").rename(to)

    def put_roots(self, name: str) -> None:
        shutil.copy(self._pem.path(f"{name}.pem"), self.roots.with_suffix(".new"))
        self.roots.with_suffix(".new").rename(self.roots)


@pytest.fixture
def files(tmp_path: Path, pem: Pem) -> Files:
    return Files(tmp_path, pem)


async def test_files_that_change_are_read_again(files: Files, pem: Pem, log: Log) -> None:
    async with secured(rpc.ssl_server_credentials_from_files(files.key, files.chain, refresh=SOON)) as (_, target):
        assert await shown(target) == pem.der("server")
        files.put("renewed")
        await until_shown(target, pem.der("renewed"))
    # It may have looked between the two renamings.
    log.take("the certificates could not be renewed")


async def test_files_are_read_at_once_when_asked_to(files: Files, pem: Pem, client: ClientProcess) -> None:
    credentials = rpc.ssl_server_credentials_from_files(
        str(files.key), str(files.chain), files.roots, require_client_auth=True, refresh=NEVER
    )
    async with secured(credentials) as (_, target):
        assert credentials.certificates.renew() is False
        files.put("renewed")
        files.put_roots("stranger")
        assert credentials.certificates.renew() is True
        assert credentials.certificates.renew() is False
        strange = pem.channel(own="strange-client")
        assert (await client.call(target, path("Answer"), channel=strange)).code == "OK"
        assert await shown_to(target, "strange-client", pem) == pem.der("renewed")


async def shown_to(target: str, own: str, pem: Pem) -> bytes:
    context = client_context("h2")
    context.load_cert_chain(pem.path(f"{own}.pem"), pem.path(f"{own}.key"))
    with await asyncio.to_thread(connect, target, context) as connection:
        certificate = connection.getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


async def test_files_that_do_not_fit_together_are_logged_and_read_again(files: Files, pem: Pem, log: Log) -> None:
    async with secured(rpc.ssl_server_credentials_from_files(files.key, files.chain, refresh=SOON)) as (_, target):
        shutil.copy(pem.path("renewed.pem"), files.chain)
        await until(lambda: log.take("the present ones stay in use: CertificateError"))
        assert await shown(target) == pem.der("server")
        shutil.copy(pem.path("renewed.key"), files.key)
        await until_shown(target, pem.der("renewed"))
    log.take("the certificates could not be renewed")


async def test_a_file_that_is_gone_is_logged_and_the_certificates_stay(files: Files, pem: Pem, log: Log) -> None:
    async with secured(rpc.ssl_server_credentials_from_files(files.key, files.chain, refresh=SOON)) as (_, target):
        files.chain.unlink()
        await until(lambda: log.take("FileNotFoundError"))
        assert await shown(target) == pem.der("server")
        files.put("server")
    log.take("the certificates could not be renewed")


def test_files_that_are_not_there_are_an_error_at_the_call(files: Files, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        rpc.ssl_server_credentials_from_files(tmp_path / "no.key", files.chain)
    with pytest.raises(CertificateError, match="each pair is"):
        rpc.ssl_server_credentials_from_files(files.chain, files.key)
    with pytest.raises(CertificateError, match="no root certificates"):
        rpc.ssl_server_credentials_from_files(files.key, files.chain, require_client_auth=True)


# ----------------------------------------------------------------------------------------------------------- functions


async def test_a_function_is_asked_for_new_certificates(pem: Pem) -> None:
    answers: list[Any] = [None, None, rpc.ssl_server_certificate_configuration([pem.pair("renewed")])]
    threads = set()

    def fetch() -> Any:
        threads.add(threading.current_thread().name)
        return answers.pop(0) if answers else None

    initial = rpc.ssl_server_certificate_configuration([pem.pair("server")], pem.read("authority.pem"))
    credentials = rpc.dynamic_ssl_server_credentials(initial, fetch, refresh=SOON)
    assert not threads, "nothing is asked before there is a port"
    async with secured(credentials) as (_, target):
        await until_shown(target, pem.der("renewed"))
    assert threads == {"atoll-certificates"}


async def test_a_function_that_raises_is_logged_and_asked_again(pem: Pem, log: Log) -> None:
    answers: list[Any] = [OSError("the vault is closed"), "nonsense", ([pem.pair("renewed")], None)]

    def fetch() -> Any:
        answer = answers.pop(0) if answers else None
        if isinstance(answer, Exception):
            raise answer
        return rpc.ServerCertificateConfiguration(*answer) if isinstance(answer, tuple) else answer

    initial = rpc.ssl_server_certificate_configuration([pem.pair("server")])
    async with secured(rpc.dynamic_ssl_server_credentials(initial, fetch, refresh=SOON)) as (_, target):
        await until_shown(target, pem.der("renewed"))
    assert len(log.take("the vault is closed")) == 1
    assert len(log.take("make one with rpc.ssl_server_certificate_configuration")) == 1


async def test_a_slow_function_holds_up_no_handshake(pem: Pem) -> None:
    asked, answer = threading.Event(), threading.Event()

    def fetch() -> None:
        asked.set()
        answer.wait(30)

    initial = rpc.ssl_server_certificate_configuration([pem.pair("server")])
    async with secured(rpc.dynamic_ssl_server_credentials(initial, fetch, refresh=SOON)) as (_, target):
        await until(asked.is_set)
        assert await shown(target) == pem.der("server")
        answer.set()


def test_grpcs_own_configuration_is_refused_and_the_right_call_is_shown(pem: Pem) -> None:
    theirs: Any = grpc.ssl_server_certificate_configuration([pem.pair("server")])
    with pytest.raises(TypeError, match=r"write rpc\.ssl_server_certificate_configuration\(\.\.\.\) instead of grpc"):
        rpc.dynamic_ssl_server_credentials(theirs, lambda: None)


@pytest.mark.parametrize("refresh", [0, -1.0, float("nan"), float("inf")])
def test_a_refresh_that_is_no_time_is_refused(refresh: float, files: Files) -> None:
    with pytest.raises(ValueError, match="is not a positive number of seconds"):
        rpc.ssl_server_credentials_from_files(files.key, files.chain, refresh=refresh)


async def test_the_thread_ends_with_the_server_and_the_credentials(files: Files) -> None:
    credentials = rpc.ssl_server_credentials_from_files(files.key, files.chain, refresh=NEVER)
    assert not renewers(), "nothing runs before there is a port"
    gone = weakref.ref(credentials.certificates)
    async with secured(credentials) as (_, _target):
        del credentials
        gc.collect()
        assert gone() is not None, "the server uses them"
        assert len(renewers()) == 1
    gc.collect()
    await until(lambda: gone() is None)
    await until(lambda: not renewers())
