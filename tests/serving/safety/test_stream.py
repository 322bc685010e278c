"""What the stream filter says before it works is what it then does."""

from hypothesis import given
from hypothesis import strategies as st

from penjing.serving.safety.policy import Decision
from penjing.serving.safety.stream import StreamFilter


@given(st.text('ab .。\n"”', max_size=3000), st.integers(1, 50), st.booleans())
def test_a_piece_is_said_to_wait_exactly_if_nothing_is_checked(text, size, blocks):
    """Whoever asks `waits` need not leave the event loop: a piece that waits costs no look at a sentence."""
    checked = []

    def decide(sentence, before):
        checked.append(sentence)
        return Decision("block" if blocks and sentence.startswith("a") else "allow", sentence)

    stream = StreamFilter(decide)
    for start in range(0, len(text), size):
        piece = text[start : start + size]
        waits = stream.waits(piece)
        before = len(checked)
        shown = list(stream.push(piece))
        assert waits == (len(checked) == before)
        assert not waits or not shown
