"""The little HTTP/2 that the client which holds connections speaks."""

import pytest
from benchmarks.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionLostError,
    Counts,
    Parser,
    call,
    frame,
    opening,
)

REPLY = frame(HEADERS, END_HEADERS, 1, b"\x88") + frame(DATA, 0, 1, b"12345")
TRAILERS = frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x88")


def test_a_frame_is_its_length_kind_flags_stream_and_payload() -> None:
    assert frame(DATA, END_STREAM, 3, b"ab") == b"\x00\x00\x02\x00\x01\x00\x00\x00\x03ab"


def test_a_connection_opens_with_the_preface_settings_and_a_window() -> None:
    rest = opening().removeprefix(PREFACE)
    assert (rest[3], rest[9 + 6 + 3]) == (SETTINGS, WINDOW_UPDATE)
    assert int.from_bytes(rest[-4:], "big") + 65_535 == 1 << 30


def test_a_call_is_headers_and_a_body_that_ends_the_stream() -> None:
    encoded = call(5, "https", "/a.B/C", b"body")
    assert encoded[3:9] == bytes([HEADERS, END_HEADERS, 0, 0, 0, 5])
    assert b"\x00\x05:path\x06/a.B/C" in encoded
    assert b"\x00\x07:scheme\x05https" in encoded
    assert encoded.endswith(frame(DATA, END_STREAM, 5, b"body"))


def test_a_path_that_needs_a_longer_length_is_refused() -> None:
    with pytest.raises(ValueError, match="keep names and values under 127 bytes"):
        call(1, "http", "/" + "a" * 126, b"")


def test_replies_are_counted_by_their_bytes_and_ends() -> None:
    counts = Counts()
    parser = Parser(counts)
    assert parser.feed(REPLY) == b""
    assert counts == Counts(data_bytes=5, ended=0)
    assert parser.feed(TRAILERS) == b""
    assert counts == Counts(data_bytes=5, ended=1)


def test_frames_may_come_in_pieces_of_any_length() -> None:
    counts = Counts()
    parser = Parser(counts)
    for byte in REPLY + TRAILERS:
        parser.feed(bytes([byte]))
    assert counts == Counts(data_bytes=5, ended=1)


def test_connections_may_share_their_counts() -> None:
    counts = Counts()
    for parser in (Parser(counts), Parser(counts)):
        parser.feed(REPLY)
    assert counts.data_bytes == 10


def test_settings_and_pings_are_acknowledged_but_not_their_acknowledgements() -> None:
    parser = Parser(Counts())
    assert parser.feed(frame(SETTINGS, 0, 0)) == frame(SETTINGS, ACK, 0)
    assert parser.feed(frame(PING, 0, 0, b"12345678")) == frame(PING, ACK, 0, b"12345678")
    assert parser.feed(frame(SETTINGS, ACK, 0) + frame(PING, ACK, 0, b"12345678")) == b""


def test_a_reset_or_a_goaway_is_an_error_that_says_its_code() -> None:
    with pytest.raises(ConnectionLostError, match="call 7 was reset with error code 8"):
        Parser(Counts()).feed(frame(RST_STREAM, 0, 7, (8).to_bytes(4, "big")))
    with pytest.raises(ConnectionLostError, match="GOAWAY with error code 11: b'calm'"):
        Parser(Counts()).feed(frame(GOAWAY, 0, 0, bytes(4) + (11).to_bytes(4, "big") + b"calm"))
