"""A Kafka that asks who you are (SASL), and one that speaks TLS too: the settings in ``[kafka]`` are all it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from smartscale import config
from smartscale.errors import FatalLogError
from smartscale.log import open_log
from smartscale.log.port import Message, Position, TopicPartition, TopicSpec, read_all
from smartscale.testing.kafka_broker import KafkaBroker, free_port
from smartscale.testing.processes import get, smartscale, wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

PASSWORD = "correct-horse-battery-staple"
SASL = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "smartscale"}


class Secured:
    """A broker with two listeners: one asks for a password, the other speaks TLS as well."""

    def __init__(self, folder: Path) -> None:
        self.tls_port, port = free_port(), free_port()
        authority = trustme.CA()
        self.authority = folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        store = folder / "broker.pem"
        certificate = authority.issue_cert("127.0.0.1")
        chain = b"".join(each.bytes() for each in certificate.cert_chain_pems)
        store.write_bytes(_pkcs8(certificate.private_key_pem.bytes()) + chain)
        jaas = (
            'org.apache.kafka.common.security.plain.PlainLoginModule required username="smartscale" '
            f'password="{PASSWORD}" user_smartscale="{PASSWORD}";'
        )
        controller = free_port()
        settings = {
            "listeners": f"BROKER://127.0.0.1:{port},SECURE://127.0.0.1:{self.tls_port},"
            f"CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listener.security.protocol.map": "BROKER:SASL_PLAINTEXT,SECURE:SASL_SSL,CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.broker.plain.sasl.jaas.config": jaas,
            "listener.name.secure.plain.sasl.jaas.config": jaas,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
        }
        self.client = {**SASL, "sasl.password": PASSWORD}
        self.broker = KafkaBroker(port, folder / "kafka", settings, client=self.client)

    @property
    def listeners(self) -> Mapping[str, tuple[str, Mapping[str, str]]]:
        """Address and client settings of each."""
        tls = {**self.client, "security.protocol": "SASL_SSL", "ssl.ca.location": str(self.authority)}
        return {
            "SASL_PLAINTEXT": (self.broker.url, self.client),
            "SASL_SSL": (f"kafka://127.0.0.1:{self.tls_port}", tls),
        }


def _pkcs8(key: bytes) -> bytes:
    """The same key in the one form that Java reads."""
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    made = Secured(tmp_path_factory.mktemp("secured"))
    with made.broker:
        yield made


@pytest.mark.parametrize("listener", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_the_whole_port_works(secured: Secured, listener: str) -> None:
    """Topics, an append, and a transaction of a group's member."""
    address, client = secured.listeners[listener]
    topic = f"check-{listener.lower()}"
    log = open_log(address, client)
    log.create([TopicSpec(topic, 1)])
    at = TopicPartition(topic, 0)
    publisher = log.publisher()
    assert publisher.append([Message(topic, 0, b"one")]) == [0]
    publisher.close()
    worker = log.worker(f"group-{listener}", [topic], "0")
    wait_until(lambda: bool(worker.poll(1.0).records), 30, lambda: "no record came")
    with worker.transaction() as transaction:
        transaction.publish([Message(topic, 0, b"two")])
        transaction.commit_positions({at: Position(1)})
    worker.close()
    assert [record.value for record in read_all(log, at)] == [b"one", b"two"]
    assert log.committed(f"group-{listener}")[at].offset == 1
    log.close()


def test_a_wrong_password_is_told_with_the_remedy_and_without_the_password(
    secured: Secured, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(secured.broker.url, {**SASL, "sasl.password": "wrong-" + PASSWORD})
    with pytest.raises(FatalLogError, match=r"credentials in the \[kafka\] settings") as caught:
        log.topics()
    log.close()
    assert PASSWORD not in str(caught.value) + caplog.text


def test_an_edge_writes_to_it_and_shows_no_secret(secured: Secured, tmp_path: Path) -> None:
    """The password is in the settings' file alone: not in the process's arguments, its lines, its metrics or its answers."""
    address, client = secured.listeners["SASL_SSL"]
    file = tmp_path / "smartscale.toml"
    lines = [f"log = {json.dumps(address)}", "[kafka]"]
    file.write_text("\n".join(lines + [f'"{key}" = {json.dumps(value)}' for key, value in client.items()]))
    made = smartscale("topics", "--config", str(file))
    assert made.returncode == 0, made.stderr
    port = free_port()
    output = tmp_path / "ingest.log"
    with output.open("w") as to:
        process = subprocess.Popen(
            [sys.executable, "-m", "smartscale", "ingest", "--config", str(file), "--port", str(port)],
            stdout=to,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: get(port, "/readyz")[0] == 200, 60, output.read_text)
        arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes().decode()
        shown = [get(port, path)[1] for path in ("/metrics", "/readyz", "/healthz")]
    finally:
        process.terminate()
        assert process.wait(30) == 0
    for text in (arguments, output.read_text(), made.stdout, made.stderr, *shown):
        assert PASSWORD not in text
    assert PASSWORD not in repr(config.load(file, environment={}))
