"""Decoding one id at a time, for text that is shown while it is generated.

A token can end in the middle of a character: 盆 is three bytes, and byte-level BPE may cut between any two. Decoding
each id by itself would show U+FFFD for both halves. So bytes that may still become a character wait for the next id;
bytes that no continuation can save are U+FFFD at once.

    decoder = IncrementalDecoder(tokenizer)
    for id in ids: show(decoder.push(id))
    show(decoder.flush())                        # all that was shown, joined, is tokenizer.decode(ids)
"""

import codecs

from penjing.tokenizer.tokenizer import Tokenizer


class IncrementalDecoder:
    """Text from ids that come one by one.

    Args:
        tokenizer: whose ids they are.
        skip_special: leave special tokens out instead of giving their names.
        at_start: False when the ids go on after a text: SentencePiece's first space is then shown.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False, at_start: bool = True):
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._at_start = at_start
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, id: int) -> str:
        """The characters that `id` completes; often all of its own, sometimes none.

        Raises:
            TokenizerError: `id` is not in the vocabulary.
        """
        if self._skip_special and not self._at_start:
            return self._decoder.decode(self._tokenizer.token_bytes(id))
        content = self._tokenizer.decode_bytes([id], skip_special=self._skip_special, at_start=self._at_start)
        # the first token of text uses up the start, even if it is nothing but SentencePiece's space
        self._at_start = self._at_start and not content and not self._tokenizer.token_bytes(id)
        return self._decoder.decode(content)

    def flush(self) -> str:
        """What is left when no more ids come: nothing, or one U+FFFD for an unfinished character."""
        return self._decoder.decode(b"", final=True)
