"""Framing: one message at a time, with its own descriptors, however the bytes arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpnet.vhost_user.framing import Framer, FramingError
from mpnet.vhost_user.messages import HEADER, MAX_PAYLOAD, Message

MESSAGES = st.builds(
    Message,
    st.integers(0, 2**32 - 1),
    st.binary(max_size=300),
    st.just(()),
    st.integers(0, 2**30 - 1).map(lambda flags: flags << 2 | 1),
)


def read_all(framer, stream, chunk):
    """Feed as a socket does: never more than wanted, at most ``chunk`` bytes at a time."""
    messages = []
    while stream:
        step = min(framer.wanted, chunk)
        message = framer.feed(stream[:step])
        stream = stream[step:]
        if message:
            messages.append(message)
    return messages


@given(st.lists(MESSAGES, max_size=5), st.integers(1, 40))
def test_any_split_gives_the_same_messages(messages, chunk):
    framer = Framer()
    assert read_all(framer, b"".join(message.pack() for message in messages), chunk) == messages
    assert not framer.midway


def test_descriptors_of_header_and_payload_belong_to_one_message():
    framer = Framer()
    data = Message(12, bytes(8)).pack()
    assert framer.feed(data[:12], (5,)) is None
    assert framer.wanted == 8
    message = framer.feed(data[12:], (6,))
    assert message
    assert message.fds == (5, 6)


def test_a_message_without_payload_is_whole_after_its_header():
    assert Framer().feed(HEADER.pack(3, 1, 0)) == Message(3)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (HEADER.pack(1, 0, 0), "protocol version 0, expected 1"),
        (HEADER.pack(1, 2, 0), "protocol version 2, expected 1"),
        (HEADER.pack(5, 1, MAX_PAYLOAD + 1), f"payload of {MAX_PAYLOAD + 1} bytes"),
        (HEADER.pack(5, 1, 0xFFFFFFFF), "payload of 4294967295 bytes"),
    ],
)
def test_a_bad_header_gives_its_descriptors_back(header, reason):
    with pytest.raises(FramingError, match=reason) as caught:
        Framer().feed(header, (7, 8))
    assert caught.value.fds == (7, 8)


def test_too_many_descriptors_are_given_back():
    with pytest.raises(FramingError, match="9 file descriptors") as caught:
        Framer().feed(b"\1", range(9))
    assert caught.value.fds == tuple(range(9))


def test_more_bytes_than_wanted_are_an_error():
    with pytest.raises(FramingError, match="13 bytes, 12 were wanted"):
        Framer().feed(bytes(13))


def test_a_stream_that_ends_midway_gives_its_descriptors_back():
    framer = Framer()
    framer.feed(HEADER.pack(12, 1, 8), (4,))
    assert framer.midway
    assert framer.abandon() == (4,)
    assert not framer.midway
    assert framer.wanted == HEADER.size


@given(st.lists(st.binary(min_size=1, max_size=64), max_size=30))
def test_random_bytes_give_messages_or_framing_errors(reads):
    framer = Framer()
    next_fd, out = 0, []
    for read in reads:
        try:
            message = framer.feed(read[: framer.wanted], (next_fd,))
        except FramingError as error:
            out += error.fds
        else:
            out += message.fds if message else ()
        next_fd += 1
    assert out + list(framer.abandon()) == list(range(next_fd))
