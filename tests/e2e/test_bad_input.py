"""Wrong input and a world in the way, met by the real processes: each gets a clear answer, and nothing taken is lost."""

from __future__ import annotations

import http.client
import resource
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from smartscale.clock import MICROS, WallClock, monotonic_s
from smartscale.log.port import TopicPartition, read_all
from smartscale.records import decisions, schema, topics
from smartscale.testing import oracle
from smartscale.testing.oracle import Event
from smartscale.testing.posting import Poster, steady_load
from smartscale.testing.processes import STAGES, Pipeline, balance, metric_rows, smartscale, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SETTINGS = {
    "topics.retention_bytes": 0,
    "ingest.max_body_bytes": 1 << 20,
    "time.out_of_orderness_s": 0.5,
    "time.allowed_lateness_s": 1.0,
    "windows.tumbling_s": [1.0],
    "windows.sliding_s": [],
    "ml.step_s": 1.0,
}
"""Windows of a second, final soon."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    folder = tmp_path_factory.mktemp("bad-input")
    with Pipeline(f"sqlite:{folder}/log.db", folder, SETTINGS, ("ingest", "combine", "window")) as pipeline:
        yield pipeline


class Answer(msgspec.Struct):
    accepted: int = 0
    refused: int = 0
    detail: str = ""
    verdicts: list[dict[str, object]] = []


def post(pipeline: Pipeline, body: bytes, content_type: str = "application/json") -> tuple[int, Answer]:
    connection = http.client.HTTPConnection("127.0.0.1", pipeline.port("ingest"), timeout=10)
    connection.request("POST", "/v1/events", body, {"Content-Type": content_type})
    response = connection.getresponse()
    answer = msgspec.json.decode(response.read(), type=Answer)
    connection.close()
    return response.status, answer


BAD = {
    "unknown field": ({"service": "a", "serivce": "b"}, "unknown field"),
    "wrong type": ({"service": "a", "status": "200"}, "`status` must be"),
    "no service": ({"name": "x"}, "service"),
    "far future": ({"service": "a", "time": "2999-01-01T00:00:00Z"}, "too far in the future"),
    "time without zone": ({"service": "a", "time": "yesterday"}, "RFC 3339"),
    "too large": ({"service": "a", "attributes": {"x": "y" * 70_000}}, "more than the limit"),
    "negative latency": ({"service": "a", "latency_ms": -1}, "`latency_ms` must be"),
    "metric without value": ({"service": "a", "kind": "metric"}, "`value` is required"),
    "no object": (17, "must be a JSON object"),
}


def test_bad_events_are_refused_one_by_one_and_the_good_ones_counted(pipeline: Pipeline) -> None:
    """Good and bad in one request: 207, a verdict with a reason for each bad one, every good one in a final window."""
    now_us = WallClock().now_us()
    good = [
        Event(f"good-{i}", now_us, "mixed", name="r", status=200, latency_us=1000) for i in range(len(BAD))
    ]
    mixed = [
        one
        for pair in zip((g.to_json() for g in good), (bad for bad, _ in BAD.values()), strict=True)
        for one in pair
    ]
    status, answer = post(pipeline, msgspec.json.encode(mixed))
    assert (status, answer.accepted, answer.refused) == (207, len(BAD), len(BAD))
    assert [one["index"] for one in answer.verdicts] == list(range(1, 2 * len(BAD), 2))
    for one, (_, reason) in zip(answer.verdicts, BAD.values(), strict=True):
        assert reason in str(one["reason"])
    pipeline.wait_final(now_us + MICROS, 60)
    with pipeline.log() as log:
        found = oracle.finals(row for row in metric_rows(log) if row.service == "mixed")
        assert not oracle.differences(oracle.expected(good, [1.0]), found)
        assert balance(log, pipeline.settings).difference == 0


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"[{", "application/json", 400, "not valid JSON"),
        (b"", "application/json", 400, "empty"),
        (b"\xff\xfe{}", "application/json", 400, "not valid JSON"),
        (b"[" * 100_000, "application/json", 400, "not valid JSON"),
        (b'{"service": "a"}', "text/csv", 415, "not read here"),
        (b'"' + b"x" * (1 << 20) + b'"', "application/json", 413, "limit"),
        (b'[{"service": "a", "status": true}]', "application/json", 400, "none of the 1 events"),
    ],
    ids=["cut off", "empty", "no text", "nested", "media type", "too long", "all bad"],
)
def test_a_body_that_cannot_be_taken_is_refused_as_a_whole(
    pipeline: Pipeline, body: bytes, content_type: str, status: int, reason: str
) -> None:
    """The status says what kind of fault, the text what to do."""
    got, answer = post(pipeline, body, content_type)
    assert got == status
    assert reason in answer.detail
    assert answer.accepted == 0


def test_every_stage_tells_an_unreachable_broker_and_ends_without_a_flood(tmp_path: Path) -> None:
    """Within seconds, in a few lines without a traceback, with the address and what to do."""
    with socket.socket() as nobody, ThreadPoolExecutor(len(STAGES)) as pool:
        nobody.bind(("127.0.0.1", 0))  # but never listens: connections are refused for the time of the test
        address = f"127.0.0.1:{nobody.getsockname()[1]}"

        def run(stage: str) -> subprocess.CompletedProcess[str]:
            port = ["--port", "0"] if stage != "ingest" else []
            return smartscale(stage, "--log", f"kafka://{address}", *port, *policies(stage, tmp_path))

        for ended in pool.map(run, STAGES):
            assert ended.returncode == 3
            assert f"is Kafka running at {address}?" in ended.stderr
            assert "Traceback" not in ended.stderr
            assert len(ended.stderr.splitlines()) < 10


def policies(stage: str, folder: Path) -> list[str]:
    return ["--policies", str(folder)] if stage == "control" else []


@pytest.mark.parametrize(
    ("stage", "text", "named"),
    [
        ("ingest", None, ["not found", "--config"]),
        (
            "combine",
            "[time]\nallowed_latness_s = 3\n",
            ["time.allowed_latness_s", "did you mean 'time.allowed_lateness_s'"],
        ),
        ("window", '[time]\nallowed_lateness_s = "3"\n', ["time.allowed_lateness_s", "float"]),
        ("ml", "[time\n", ["not valid TOML", "line 1"]),
        ("control", "[windows]\ntumbling_s = []\n", ["windows.tumbling_s", "at least one"]),
    ],
    ids=["missing", "unknown key", "wrong type", "no TOML", "impossible value"],
)
def test_a_wrong_configuration_ends_a_stage_with_file_key_and_remedy(
    stage: str, text: str | None, named: list[str], tmp_path: Path
) -> None:
    """Exit code 2 and one line."""
    file = tmp_path / "smartscale.toml"
    if text is not None:
        file.write_text(text)
    ended = smartscale(stage, "--log", f"sqlite:{tmp_path}/log.db", "--config", str(file))
    assert ended.returncode == 2
    assert all(part in ended.stderr for part in named)
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_port_in_use_ends_a_stage_and_names_the_port(
    stage: str, pipeline: Pipeline, tmp_path: Path
) -> None:
    """Exit code 2 before anything else is done."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = smartscale(stage, "--config", str(pipeline.config), "--slot", "other", "--port", port)
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert "--port" in ended.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_a_log_without_topics_ends_a_stage_and_names_the_command(stage: str, tmp_path: Path) -> None:
    """Exit code 2: a person must act."""
    ended = smartscale(stage, "--log", f"sqlite:{tmp_path}/log.db", *policies(stage, tmp_path))
    assert ended.returncode == 2
    assert "smartscale topics" in ended.stderr
    assert "Traceback" not in ended.stderr


POLICY = """\
apiVersion: smartscale.io/v1alpha1
kind: ScalingPolicy
metadata: {{name: {name}}}
spec:
  service: {name}
  scaleTargetRef: {{kind: DryRun, name: {name}}}
  minReplicas: {least}
  maxReplicas: 4
  capacityPerReplica: 50
"""


def desired(pipeline: Pipeline) -> dict[str, int]:
    """Replicas last decided, by service."""
    with pipeline.log() as log:
        found = {}
        for p in range(pipeline.settings.topics.partials):
            for record in read_all(log, TopicPartition(topics.DECISIONS, p)):
                if record.headers[schema.SCHEMA] == schema.DECISION.encode():
                    decision = decisions.decode_decision(record.value)
                    found[decision.service] = decision.desired
        return found


def test_a_wrong_policy_is_told_and_the_others_are_used(tmp_path: Path) -> None:
    """File, line and field of the wrong one in the log; decisions for the good one; `policy check` exits with 2."""
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "bad.yaml").write_text(POLICY.format(name="bad", least="many"))
    (folder / "good.yaml").write_text(POLICY.format(name="good", least=2))
    checked = smartscale("policy", "check", str(folder))
    assert checked.returncode == 2
    assert "bad.yaml:7: spec.minReplicas" in checked.stdout + checked.stderr
    settings = {"control.interval_s": 1.0, "control.policies": str(folder)}
    with Pipeline(f"sqlite:{tmp_path}/log.db", tmp_path / "run", settings, ("control",)) as pipeline:
        wait_until(lambda: desired(pipeline) == {"good": 2}, 30, lambda: pipeline.tail("control"))
        assert "bad.yaml:7: spec.minReplicas" in pipeline.text("control")


def test_missing_policies_are_told_and_used_once_they_are_there(tmp_path: Path) -> None:
    """A folder that is mounted late does not end the stage."""
    folder = tmp_path / "policies"
    settings = {"control.interval_s": 1.0, "control.policies": str(folder)}
    with Pipeline(f"sqlite:{tmp_path}/log.db", tmp_path / "run", settings, ("control",)) as pipeline:
        assert f"{folder}: not found" in pipeline.text("control")
        folder.mkdir()
        (folder / "good.yaml").write_text(POLICY.format(name="good", least=2))
        wait_until(lambda: desired(pipeline) == {"good": 2}, 30, lambda: pipeline.tail("control"))


FULL_BYTES = 3 << 20
"""Room for the log beyond its present size: full within a second or two of the load."""


def test_a_full_disk_is_answered_503_loses_nothing_and_is_recovered_from(tmp_path: Path) -> None:
    """The edge and combine may write no byte further than a limit, as on a full disk; then the limit is lifted.

    The kernel's file size limit stands in for the disk, since it can be set for running processes without rights."""
    settings = {**SETTINGS, "time.allowed_lateness_s": 20.0, "ingest.compression": "none"}
    asked: list[Event] = []
    with (
        Pipeline(
            f"sqlite:{tmp_path}/log.db", tmp_path, settings, ("ingest", "combine", "window")
        ) as pipeline,
        Poster(pipeline.url, connections=4) as poster,
    ):
        start_us, start_s = WallClock().now_us(), monotonic_s()

        def is_full() -> bool:
            """A single event may still find room where whole batches do not; then it counts."""
            event = Event(f"asked-{len(asked)}", start_us, "a")
            status, answer = post(pipeline, msgspec.json.encode(event.to_json()))
            if status == 200:
                asked.append(event)
                return False
            assert status == 503
            assert "could not be written" in answer.detail
            return True

        size = max(file.stat().st_size for file in tmp_path.glob("log.db*"))
        limit(pipeline, size + FULL_BYTES)
        poster.start(steady_load(5, start_us, start_s, 12.0, 3000, 0.5))
        wait_until(lambda: poster.retries > 10, 60, lambda: f"never full: {pipeline.complaints()}")
        wait_until(is_full, 60, lambda: f"room for {len(asked)} events: {pipeline.complaints()}")
        limit(pipeline, resource.RLIM_INFINITY)
        assert poster.join(90), pipeline.complaints()
        assert {answer for _, answer in poster.answers} <= {"accepted", "duplicate"}
        pipeline.wait_ready()
        pipeline.wait_final(start_us + 13 * MICROS, 120)
        with pipeline.log() as log:
            taken = asked + [event for event, _ in poster.answers]
            assert not oracle.differences(oracle.expected(taken, [1.0]), oracle.finals(metric_rows(log)))
            books = balance(log, pipeline.settings)
            assert (books.difference, books.late, books.dead) == (0, 0, 0)
        assert not pipeline.ended()


def limit(pipeline: Pipeline, size: int) -> None:
    for name in pipeline.stages:
        resource.prlimit(pipeline.pid(name), resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
