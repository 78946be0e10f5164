"""No secret in what settings show of themselves."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from smartscale import config


def test_settings_show_no_secret() -> None:
    settings = config.load(
        environment={},
        flags={"ingest.user_key": "pepper-of-the-house", "kafka.sasl.password": "letmein", "ingest.port": 9},
    )
    to = StringIO()
    Console(file=to).print(settings)
    for text in (repr(settings), str(settings), f"{settings.ingest}", to.getvalue()):
        assert "port=9" in text
        assert "pepper" not in text
        assert "letmein" not in text
