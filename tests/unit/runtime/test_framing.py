"""Messages survive any cutting of the stream that carries them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbr.runtime.framing import MAX_FRAME_BYTES, FrameReader, frame


@given(messages=st.lists(st.binary(max_size=50), max_size=20), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_messages_come_out_whole_and_in_order_however_they_are_cut(messages: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frame(message) for message in messages)
    reader = FrameReader()
    found: list[bytes] = []
    position = 0
    index = 0
    while position < len(stream):
        step = cuts[index % len(cuts)]
        found += reader.feed(stream[position : position + step])
        position += step
        index += 1
    assert found == messages


def test_a_length_that_no_message_has_is_an_error() -> None:
    with pytest.raises(ValueError, match="bytes"):
        FrameReader().feed((MAX_FRAME_BYTES + 1).to_bytes(8, "big"))
