"""Penjing (盆景): the whole modern language-model stack in one small, exact, fast library.

Two lines to begin with:

    model, tokenizer = penjing.load("runs/tiny-chat/chat/model")
    penjing.generate(model, tokenizer, "Once upon a time", max_new_tokens=50, temperature=0)

There is nothing else that must be set up.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["PenjingError", "__version__", "generate", "load", "save"]

if TYPE_CHECKING:
    from penjing.errors import PenjingError
    from penjing.inference.generate import generate
    from penjing.models.folder import load, save


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `penjing --help` should not wait for it
    if name in ("load", "save"):
        from penjing.models import folder

        return getattr(folder, name)
    if name == "generate":
        from penjing.inference.generate import generate

        return generate
    if name == "PenjingError":
        from penjing.errors import PenjingError

        return PenjingError
    raise AttributeError(f"module 'penjing' has no attribute '{name}'")
