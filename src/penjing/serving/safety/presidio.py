"""Presidio beside our own rules: names, places and the documents of eighteen countries, by a language model of spaCy.

    pip install 'penjing[presidio]' && python -m spacy download en_core_web_sm

Our rules come first; presidio's finds are added where they leave room. It reads English.

Source: https://github.com/microsoft/presidio, `AnalyzerEngine.analyze`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from penjing.errors import ConfigError
from penjing.serving.safety.findings import Finding

_NAMES: Mapping[str, str] = {
    "PERSON": "NAME",
    "EMAIL_ADDRESS": "EMAIL",
    "PHONE_NUMBER": "PHONE",
    "CREDIT_CARD": "CARD",
    "IBAN_CODE": "IBAN",
    "IP_ADDRESS": "IP",
    "US_SSN": "SSN",
    "US_DRIVER_LICENSE": "LICENCE",
    "URL": "URL",
    "LOCATION": "ADDRESS",
}
_SURE = 0.5


class Presidio:
    """Finds personal data with presidio.

    Args:
        analyzer: an `AnalyzerEngine`; None makes the usual one.

    Raises:
        ConfigError: presidio, or the model that it needs, is not installed.
    """

    def __init__(self, analyzer: Any = None):
        self._analyzer = _usual() if analyzer is None else analyzer

    def find(self, text: str, kinds: Collection[str], *, allow: Collection[str] = ()) -> list[Finding]:
        """Personal data of some kinds, under our names for them."""
        wanted = [theirs for theirs, ours in _NAMES.items() if ours in kinds]
        if not wanted:
            return []
        found = self._analyzer.analyze(
            text=text, language="en", entities=wanted, score_threshold=_SURE, allow_list=list(allow)
        )
        return [Finding(_NAMES[one.entity_type], one.start, one.end, "presidio") for one in found]


def _usual() -> Any:
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
        from spacy.util import is_package
    except ImportError:
        raise ConfigError(
            "the policy asks for presidio, which is not installed: pip install 'penjing[presidio]', or presidio = false"
        ) from None
    model = next((name for name in ("en_core_web_lg", "en_core_web_md", "en_core_web_sm") if is_package(name)), None)
    if model is None:
        raise ConfigError("presidio needs a model of spaCy's: python -m spacy download en_core_web_sm")
    models = [{"lang_code": "en", "model_name": model}]
    engine = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models}).create_engine()
    return AnalyzerEngine(nlp_engine=engine, supported_languages=["en"])
