"""Text that others chose: names of processes, of files, whatever a stranger may have put into it."""

MOST_CHARACTERS = 256


def readable(data: bytes) -> str:
    """Give foreign bytes as one short line that can be printed anywhere; never raises.

    Bytes that are no UTF-8, and characters that would move a terminal's cursor or end a line, are escaped.

    Args:
        data: as it came; a name may be cut in the middle of a character, as Linux cuts a command's to 15 bytes.
    """
    text = data.decode("utf-8", "backslashreplace")
    shown = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[: MOST_CHARACTERS - 1]}…"
