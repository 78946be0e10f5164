"""Every error SmartScale raises on purpose.

::

    SmartScaleError
    ├── UserError               the input is wrong; the message says what, where and how to mend it
    │   ├── ConfigError         a file, variable or flag: names the file and the key
    │   └── PolicyError         a scaling policy: names the file, line and field
    ├── RetryableError          the world is in the way; the same call may work after ``retry_after_s``
    │   ├── LogUnavailable      the log cannot be reached (broker down, file locked)
    │   ├── LogFull             the log has no room (disk full); nothing of the call was written
    │   └── Fenced              this member lost a partition; rewind and rebuild, then carry on
    └── PermanentError          the same call can never work
        ├── UnknownTopic        topic or partition does not exist: run ``smartscale topics``
        ├── TopicMismatch       a topic exists with other settings than asked for
        ├── OffsetOutOfRange    the position was removed by retention: a gap, told and never skipped
        ├── SchemaError         a record this version cannot read
        └── FatalLogError       the client must not be used again; end the process, the supervisor restarts it

A ``UserError`` ends a command with exit code 2 and its message alone; any other error is our bug or the
world's and is logged with its traceback.
"""

from __future__ import annotations


class SmartScaleError(Exception):
    """Root of the tree."""


class UserError(SmartScaleError):
    """Input from a person is wrong. The message says what, where and how to mend it."""


class ConfigError(UserError):
    """A configuration file, environment variable or flag is wrong."""


class PolicyError(UserError):
    """A scaling policy is wrong."""


class RetryableError(SmartScaleError):
    """The same call may work after ``retry_after_s`` seconds of wall time."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LogUnavailable(RetryableError):
    """The event log cannot be reached now."""


class LogFull(RetryableError):
    """The event log has no room. Nothing of the call was written."""


class Fenced(RetryableError):
    """This group member no longer owns a partition it tried to commit for. Nothing was written.

    Call ``Worker.rewind``; the next poll reports what is still owned, from the committed positions.
    """


class PermanentError(SmartScaleError):
    """The same call can never work."""


class UnknownTopic(PermanentError):
    """Topic or partition does not exist."""


class TopicMismatch(PermanentError):
    """A topic exists with settings other than those asked for."""


class OffsetOutOfRange(PermanentError):
    """The wanted position was removed by retention (or never existed)."""


class SchemaError(PermanentError):
    """A record whose schema or version this program cannot read."""


class FatalLogError(PermanentError):
    """The log client is broken for good; the process must end."""
