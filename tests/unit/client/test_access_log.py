"""Lines of access logs: what each format gives, and what is no line of one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartscale.client.access_log import checked_fields, line_event, templated
from smartscale.clock import iso
from smartscale.errors import UserError
from smartscale.records.events_json import EventIn

CLF = '10.0.0.1 - bob [17/May/2026:10:05:03 +0200] "POST /cart?x=1 HTTP/1.1" 503 '
COMBINED = CLF + '1024 "https://ref" "agent \\"x\\" 1.5"'


def said(line: str, **fields: str) -> tuple[str, EventIn]:
    time_us, event = line_event(line, "web", fields)
    return iso(time_us), event


@pytest.mark.parametrize(
    ("line", "latency_ms"),
    [
        (CLF + "-", None),
        (CLF + "1024", None),
        (COMBINED, None),
        (COMBINED + " 0.125", 125.0),
        (COMBINED + ' "0.125"', 125.0),
        (COMBINED + ' rt=0.125 uct="0.001" urt="0.1"', 125.0),
        (COMBINED + " 1250", 1.25),
        (COMBINED + " 423 0.005 [default-svc-80] [] 10.0.0.1:80 612 0.004 200 abc", 5.0),
    ],
)
def test_common_and_combined_lines_with_or_without_a_duration(line: str, latency_ms: float | None) -> None:
    """Seconds with a point, whole microseconds; the size is neither, nor is a number in the agent's name."""
    assert said(line) == (
        "2026-05-17T08:05:03Z",
        EventIn(service="web", name="POST /cart", status=503, latency_ms=latency_ms),
    )


def test_envoys_default_format_ends_when_the_request_ended() -> None:
    """The line's time is the start."""
    line = '[2026-05-17T08:05:03.310Z] "GET /a HTTP/2" 204 - 154 0 226 100 "10.0.35.28" "agent" "id" "host" "tcp://a"'
    assert said(line) == (
        "2026-05-17T08:05:03.536000Z",
        EventIn(service="web", name="GET /a", status=204, latency_ms=226.0),
    )
    istio = '[2026-05-17T08:05:03Z] "GET /a HTTP/1.1" 418 - via_upstream - "-" 0 135 4 4 "-" "curl" "id" "host" "1:80" x'
    assert said(istio)[1].latency_ms == 4.0


@pytest.mark.parametrize(
    "fields",
    [
        {
            "time": "2026-05-17T10:05:03+02:00",
            "method": "GET",
            "path": "/a?b",
            "status": 200,
            "latency_ms": 1.5,
        },
        {
            "time_iso8601": "2026-05-17T08:05:03+00:00",
            "request": "GET /a HTTP/1.1",
            "status": "200",
            "request_time": "0.0015",
        },
        {
            "time_local": "17/May/2026:08:05:03 +0000",
            "request_method": "GET",
            "uri": "/a",
            "status": 200,
            "latency_us": 1500,
        },
        {"ts": 1779005103.0, "request": {"method": "GET", "uri": "/a"}, "status": 200, "duration": 0.0015},
        {
            "StartUTC": "2026-05-17T08:05:03Z",
            "RequestMethod": "GET",
            "RequestPath": "/a",
            "DownstreamStatus": 200,
            "Duration": 1_500_000,
        },
        {"timestamp": 1779005103000, "route": "GET /a", "status_code": 200, "seconds": 0.0015},
    ],
    ids=["native", "nginx", "nginx-local", "caddy", "traefik", "milliseconds"],
)
def test_json_lines_of_common_servers_are_understood_by_themselves(fields: dict[str, object]) -> None:
    assert said(json.dumps(fields)) == (
        "2026-05-17T08:05:03Z",
        EventIn(service="web", name="GET /a", status=200, latency_ms=1.5),
    )


def test_fields_of_another_name_are_named() -> None:
    """Also within nested objects."""
    line = '{"when":{"at":1779005103},"took":1500,"what":"list","rc":500,"svc":"cart"}'
    named = {"time": "when.at", "latency_us": "took", "name": "what", "status": "rc", "service": "svc"}
    assert said(line, **named) == (
        "2026-05-17T08:05:03Z",
        EventIn(service="cart", name="list", status=500, latency_ms=1.5),
    )
    assert checked_fields(["time=when.at", "latency_us=took"]) == {"time": "when.at", "latency_us": "took"}
    for wrong in ("when", "when=", "speed=x"):
        with pytest.raises(UserError, match="WHAT is one of"):
            checked_fields([wrong])


def test_a_proxy_that_got_no_answer_writes_status_zero() -> None:
    assert said('{"time":1779005103,"path":"/","response_code":0}')[1].status is None


@pytest.mark.parametrize(
    "line",
    [
        "", "hello", "{", "{}", "[1]", '{"time":1779005103}', '{"status":200}', '{"time":"soon","status":200}',
        '{"time":true,"status":200}', '{"time":1e300,"status":200}', '{"time":1779005103,"status":"ok"}',
        '{"time":1779005103,"status":200,"latency_ms":-1}', '{"time":1779005103,"status":200,"latency_ms":"x"}',
        CLF.replace("17/May", "99/May") + "1", CLF.replace("503", "999") + "1",
    ],
)  # fmt: skip
def test_what_is_no_line_says_why(line: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        line_event(line, "web")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("GET /users/17", "GET /users/{id}"),
        ("GET /a/9f1c2a7e-1111-4222-8333-123456789abc/b/0", "GET /a/{id}/b/{id}"),
        ("GET /blob/deadbeefdeadbeef01", "GET /blob/{id}"),
        ("GET /v1/items.json", "GET /v1/items.json"),
        ("GET /effaced", "GET /effaced"),
        ("GET /", "GET /"),
    ],
)
def test_ids_in_paths_do_not_make_names_of_their_own(name: str, short: str) -> None:
    assert templated(name) == short


@given(st.text(max_size=80), st.data())
def test_no_line_breaks_the_parser(noise: str, data: st.DataObject) -> None:
    """Noise, and good lines with some of it in between: an event or a reason."""
    good = data.draw(
        st.sampled_from(
            [COMBINED + " 0.1", '{"time":1,"status":200,"path":"/","duration":1.5}', '[a] "b c" 200 - 1 1 1 ']
        )
    )
    at = data.draw(st.integers(0, len(good)))
    for line in (noise, good[:at] + noise + good[at + len(noise) :]):
        try:
            time_us, event = line_event(line, "web")
        except ValueError:
            continue
        assert isinstance(time_us, int)
        assert len(event.name) <= 256
