"""The errors a person meets: what was given, what was expected, what to do."""


class MpnetError(Exception):
    """A failure with a remedy; commands print it on one line and exit with status 1.

    Args:
        problem: what was given and what was expected, without a trailing full stop.
        remedy: the command or change that mends it; empty where there is none to name.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}" if self.remedy else self.problem


class ConfigError(MpnetError):
    """A device string, option, file or environment variable that cannot be used."""


class TapError(MpnetError):
    """A TAP that is missing, busy, forbidden or lacks a flag the device needs."""


class ProtocolError(MpnetError):
    """A vhost-user or management message that breaks its protocol; the session is closed."""


class GuestMemoryError(MpnetError):
    """Guest memory that cannot be mapped or an address outside it."""
