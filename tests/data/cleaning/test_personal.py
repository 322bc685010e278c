"""Personal data: what is found, and what looks like it and is not."""

import pytest

from penjing.data.cleaning import scrub


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to ann.b+news@mail.example.co.uk now", "Write to <EMAIL> now"),
        ("请写信给wang@example.com。", "请写信给<EMAIL>。"),
        ("server 8.8.8.8, gateway 192.168.0.1", "server <IP>, gateway 192.168.0.1"),
        ("call +44 20 7946 0958 or (212) 555-0123", "call <PHONE> or <PHONE>"),
        ("手机13812345678，或138-1234-5678", "手机<PHONE>，或<PHONE>"),
        ("card 4111 1111 1111 1111, 5500-0000-0000-0004", "card <CARD>, <CARD>"),
        ("身份证11010519491231002X和440524188001010014", "身份证<ID>和<ID>"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text, expected):
    """Card numbers are the test numbers of Visa and Mastercard; the identity numbers are those of GB 11643's
    examples."""
    assert scrub(text)[0] == expected


@pytest.mark.parametrize(
    "text",
    [
        "at 10:30 on 2024-05-17, page 1234567890",
        "pi is 3.14159265358979, e is 2.718281828459045",
        "version 2.13.0 of 300.1.2.3 and 10.0.0.1",
        "the order 4111 1111 1111 1112 has no valid check digit",
        "11010519491331002X has no such month, 110105194912310021 another check digit",
        "you @ home, user@localhost, @penjing",
        "from 1990-2000 to 555-0123",
        "1,234,567,890 people; 12345 67890",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert scrub(text) == (text, {})


def test_kinds_are_counted():
    _, counts = scrub("a@b.org c@d.org 13812345678")
    assert counts == {"EMAIL": 2, "PHONE": 1}
