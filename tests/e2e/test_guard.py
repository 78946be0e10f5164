"""An edge that abuse does no harm, as real processes: TLS, tokens, secrets, slow clients, limits, dead letters."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from smartscale.clock import monotonic_s
from smartscale.ingest import tokens
from smartscale.testing.processes import Pipeline, smartscale, wait_until

pytestmark = pytest.mark.e2e

DEADLINE_S = 60.0


def edge(tmp_path: Path, **settings: object) -> Pipeline:
    """An ingest process by itself, not yet started."""
    chosen = {f"ingest.{key}": value for key, value in settings.items()}
    return Pipeline(f"sqlite:{tmp_path / 'log.db'}", tmp_path / "run", chosen, ["ingest"])


class Pki:
    """An authority, the edge's certificate, and one for a client."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        served, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("client@example")
        self.ca, self.chain, self.key, self.client = (
            str(folder / name) for name in ("ca.pem", "edge.pem", "edge.key", "client.pem")
        )
        authority.cert_pem.write_to_path(self.ca)
        Path(self.chain).write_bytes(b"".join(each.bytes() for each in served.cert_chain_pems))
        served.private_key_pem.write_to_path(self.key)
        client.private_key_and_cert_chain_pem.write_to_path(self.client)

    def context(self, with_certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if with_certificate:
            context.load_cert_chain(self.client)
        return context


def post(
    port: int,
    body: bytes,
    token: str | None = None,
    context: ssl.SSLContext | None = None,
    path: str = "/v1/events",
) -> tuple[int, dict[str, object]]:
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=DEADLINE_S, context=context)
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_tls_client_certificates_tokens_changed_while_it_runs_and_no_secret_anywhere(tmp_path: Path) -> None:
    """The commands that make tokens, the access log, and everything that the process shows of itself."""
    pki, file, access = Pki(tmp_path), tmp_path / "tokens.toml", tmp_path / "access.log"

    def create(tenant: str) -> str:
        made = smartscale("tokens", "create", tenant, "--file", str(file))
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    first = create("shop")
    secrets = [first, "pepper-of-the-house", "query-secret"]
    running = edge(
        tmp_path,
        tls_certificate=pki.chain,
        tls_key=pki.key,
        tls_client_ca=pki.ca,
        tls_min_version="1.3",
        tokens_file=str(file),
        access_log=str(access),
        user_key="pepper-of-the-house",
    )
    try:
        running.prepare()
        running.start()
        port, event = running.port("ingest"), b'{"service":"shop","user":"mallory@example"}'

        def status(token: str | None, context: ssl.SSLContext | None = None) -> int:
            try:
                return post(port, event, token, context or pki.context(), "/v1/events?token=query-secret")[0]
            except OSError:
                return 0

        wait_until(lambda: status(first) == 200, DEADLINE_S, lambda: running.tail("ingest"))
        assert status(None) == 401
        assert status("sst_guessed") == 401
        assert status(first, pki.context(with_certificate=False)) == 0
        old = pki.context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert status(first, old) == 0

        second = create("shop")
        secrets.append(second)
        wait_until(lambda: status(second) == 200, 5, lambda: "the new token is not taken")
        file.write_text(tokens.entry("shop", second))
        wait_until(lambda: status(first) == 401, 5, lambda: "the old token is still taken")
        file.write_text("[[tokens]]\ntenant =")
        wait_until(lambda: "stay in force" in running.text("ingest"), 5, lambda: "the mistake is not told")
        assert status(second) == 200

        connection = http.client.HTTPSConnection("127.0.0.1", port, context=pki.context())
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
        assert 'smartscale_ingest_events_total{format="json",tenant="shop",verdict="accepted"}' in metrics
        assert "smartscale_ingest_tokens_file_broken 1.0" in metrics
        arguments = Path(f"/proc/{running.pid('ingest')}/cmdline").read_bytes().decode()
        assert running.terminate("ingest") == 0
    finally:
        running.close()
    shown = {
        "output": running.text("ingest"),
        "metrics": metrics,
        "arguments": arguments,
        "access": access.read_text(),
    }
    assert " 200 127.0.0.1 shop " in shown["access"]
    assert [(name, secret[:8]) for name, text in shown.items() for secret in secrets if secret in text] == []
    log = (tmp_path / "log.db").read_bytes()
    assert not any(secret.encode() in log for secret in [*secrets, "mallory@example"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tokens_file": "nowhere.toml"}, "tokens create"),
        ({"tls_certificate": "nowhere.pem", "tls_key": "nowhere.key"}, "ingest.tls_certificate: no file"),
        ({"access_log": "/nowhere/access.log"}, "ingest.access_log"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_a_message(
    tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    running = edge(tmp_path, **settings)
    try:
        running.prepare()
        running.start()
        wait_until(lambda: running.ended() == {"ingest": 2}, DEADLINE_S, lambda: running.tail("ingest"))
        assert says in running.text("ingest")
        assert "Traceback" not in running.text("ingest")
    finally:
        running.close()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Pipeline]:
    """Small limits, so that each is met soon."""
    running = edge(
        tmp_path,
        header_timeout_s=1,
        body_timeout_s=1,
        idle_timeout_s=2,
        max_connections=60,
        max_services=2,
        max_id_chars=40,
        linger_ms=0,
    )
    with running:
        yield running


def test_slow_clients_are_cut_off_and_others_served_meanwhile(strict: Pipeline) -> None:
    """Slowloris: 50 connections whose heads trickle in, 5 whose bodies do. While they last, a good client is answered in
    time; after their deadlines they are gone (a slow body is told 408), and no room is left taken."""
    port, stop = strict.port("ingest"), threading.Event()
    with ExitStack() as stack:
        heads = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)]
        bodies = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(5)]
        for one in heads:
            one.sendall(b"POST /v1/events HTTP/1.1\r\nhost: x\r\nx-a: ")
        for one in bodies:
            one.sendall(b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n[")

        def trickle() -> None:
            while not stop.wait(0.1):
                for one in heads + bodies:
                    with contextlib.suppress(OSError):  # cut off: what is wanted
                        one.sendall(b" ")

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            answered = []
            for _ in range(20):
                began_s = monotonic_s()
                assert post(port, b'{"service":"shop"}')[0] == 200
                answered.append(monotonic_s() - began_s)
            for one in heads + bodies:
                one.settimeout(DEADLINE_S)
            assert [_rest(one)[:12] for one in bodies] == [b"HTTP/1.1 408"] * 5
            assert [_rest(one) for one in heads] == [b""] * 50
        finally:
            stop.set()
            thread.join()
    assert sorted(answered)[10] < 1.0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", "/metrics")
    assert b"smartscale_ingest_waiting_bytes 0.0" in connection.getresponse().read()
    connection.close()


def _rest(one: socket.socket) -> bytes:
    """What the edge sends until it closes the connection, however it does."""
    got = b""
    try:
        while data := one.recv(4096):
            got += data
    except ConnectionError:
        pass  # closed while we sent: the same end
    return got


def test_connections_beyond_the_bound_are_closed_and_others_go_on(strict: Pipeline) -> None:
    port = strict.port("ingest")
    good = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    good.request("POST", "/v1/events", b'{"service":"shop"}')
    assert good.getresponse().read()
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(80)]
        for one in held:
            one.settimeout(0.3)
        closed = 0
        for one in held[60:]:
            try:
                closed += one.recv(1) == b""
            except ConnectionError:
                closed += 1
        assert closed == 20
        good.request("POST", "/v1/events", b'{"service":"shop"}')
        assert good.getresponse().status == 200
        good.close()
    wait_until(lambda: post(port, b'{"service":"shop"}')[0] == 200, 5, lambda: "no room again")


def test_refused_events_are_kept_shown_and_replayed_once_the_limit_is_raised(
    strict: Pipeline, tmp_path: Path
) -> None:
    """A third service is one too many; with a higher limit its events are sent again from the dead letters, once."""
    port = strict.port("ingest")
    body = [{"service": name} for name in ("a", "b", "c", "c")] + [{"service": "a", "id": "x" * 41}]
    status, answer = post(port, json.dumps(body).encode())
    assert (status, answer["accepted"], answer["refused"]) == (207, 2, 3)
    config = ["--config", str(strict.config)]
    listed = smartscale("dead-letters", "list", "--json", *config)
    rows = [json.loads(line) for line in listed.stdout.splitlines()]
    assert sorted(row["reason"] for row in rows) == ["long-id", "too-many-services", "too-many-services"]
    assert strict.terminate("ingest") == 0
    strict.config.write_text(
        strict.config.read_text().replace("ingest.max_services = 2", "ingest.max_services = 9")
    )
    strict.start("ingest")
    strict.wait_ready("ingest")
    replay = [
        "dead-letters",
        "replay",
        "--reason",
        "too-many-services",
        "--url",
        strict.url,
        "--json",
        *config,
    ]
    assert json.loads(smartscale(*replay, "--dry-run").stdout)["events"] == 2
    assert json.loads(smartscale(*replay).stdout)["accepted"] == 2
    assert json.loads(smartscale(*replay).stdout)["events"] == 0
    told = smartscale("dead-letters", "list", *config, environment={"COLUMNS": "160"})
    assert "too-many-services" in told.stdout
    assert "3 letters of 3 events" in told.stdout
