"""What the property tests of both OpenAPI documents share: how requests are made, and what is asked of the answers."""

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks

CHECKS = [
    schemathesis.checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]


def document_of(url):
    """A server's own document; of the requests that it allows, those without NUL characters are made."""
    config = SchemathesisConfig.from_dict({"generation": {"allow-x00": False, "mode": "positive"}})
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
