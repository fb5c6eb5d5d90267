"""TLS on loopback with a certificate made for the test."""

import shutil
import ssl
import subprocess
import threading

import pytest

from simulators.scripted import Scripted, plain
from zhcached.errors import TransportError
from zhcached.transport.address import AddressPolicy
from zhcached.transport.http import Target, Transport

BODY = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("the openssl command makes the test's certificate and is not here")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=hub.example",
         "-addext", "subjectAltName=DNS:hub.example"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return key, cert


@pytest.fixture
def server(certificate):
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with Scripted(lambda _: [plain(BODY)], tls=context) as started:
        yield started


def opened(server, certificate, *, host="hub.example", trusts=True):
    context = ssl.create_default_context(cafile=certificate[1] if trusts else None)
    url = f"https://{host}:{server.port}/"
    transport = Transport(
        AddressPolicy.of([url]), resolver=lambda _host, _port: ["127.0.0.1"], tls=context
    )
    return transport, Target(url)


def test_body_comes_whole_over_tls_and_the_connection_is_kept(server, certificate):
    transport, target = opened(server, certificate)
    for _ in range(2):
        with transport.open(target, read_timeout_s=5) as response:
            assert response.read_limited(2**21) == BODY
    assert server.connections == 1
    transport.close()


@pytest.mark.parametrize(("host", "trusts"), [("other.example", True), ("hub.example", False)])
def test_certificate_that_is_not_the_hosts_or_not_trusted_is_refused(
    server, certificate, host, trusts
):
    transport, target = opened(server, certificate, host=host, trusts=trusts)
    with pytest.raises(TransportError, match="certificate"):
        transport.open(target, read_timeout_s=5)
    assert server.asked == []


def test_handshake_that_never_answers_ends_at_the_deadline_or_abort(certificate):
    aborted = threading.Event()
    with Scripted(lambda _: []) as silent:
        transport, target = opened(silent, certificate)
        threading.Timer(0.1, aborted.set).start()
        with pytest.raises(TransportError, match="called off"):
            transport.open(target, read_timeout_s=5, abort=aborted.is_set)
