"""Cleaning a corpus before it is learnt from: copies, near copies, poor text and personal data.

    documents -> quality -> exact copies -> near copies -> personal data -> clean documents and a report

`pipeline` runs it, in one pass, with flat memory but for what it must remember of each kept document; `minhash` finds
near copies; `quality` tells text from what only looks like it; `personal` takes out addresses and numbers.
"""

from penjing.data.cleaning.minhash import NearCopies, signature
from penjing.data.cleaning.personal import scrub
from penjing.data.cleaning.pipeline import Cleaning, Report, clean, write_clean
from penjing.data.cleaning.quality import Quality

__all__ = ["Cleaning", "NearCopies", "Quality", "Report", "clean", "scrub", "signature", "write_clean"]
