"""What people paste, as the repo that it means."""

from __future__ import annotations

from typing import Any

import pytest

from modules.importing.addresses import Address, BadAddress, parse

SHA = "0123456789" * 4


@pytest.fixture(autouse=True)
def hub(settings: Any) -> None:
    settings.HUB_ENDPOINT = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("lorahub/flan_t5_large-wiki_qa", Address("lorahub/flan_t5_large-wiki_qa")),
        ("  a/b  ", Address("a/b")),
        ("a/b@v1.0", Address("a/b", "v1.0")),
        ("a/b@main", Address("a/b")),
        ("a/b as other-name", Address("a/b", name="other-name")),
        ("a/b@v1 as c", Address("a/b", "v1", "c")),
        ("https://huggingface.co/a/b", Address("a/b")),
        ("https://HuggingFace.co/a/b/", Address("a/b")),
        ("http://www.huggingface.co/a/b?x=1#files", Address("a/b")),
        ("huggingface.co/a/b", Address("a/b")),
        ("hf.co/a/b", Address("a/b")),
        ("hf://a/b@v1", Address("a/b", "v1")),
        ("https://huggingface.co/models/a/b", Address("a/b")),
        ("https://huggingface.co/a/b/tree/main", Address("a/b")),
        ("https://huggingface.co/a/b/tree/feat%2Fx", Address("a/b", "feat/x")),
        (f"https://huggingface.co/a/b/commit/{SHA}", Address("a/b", SHA)),
        ("https://huggingface.co/a/b/blob/v2/adapter_config.json", Address("a/b", "v2")),
        (f"https://huggingface.co/a/b/resolve/{SHA}/adapter_model.bin", Address("a/b", SHA)),
        ("https://huggingface.co/a/b/commits/main", Address("a/b")),
    ],
)
def test_it_reads_ids_and_addresses(text: str, address: Address) -> None:
    assert parse(text) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("gpt2", "names no repo"),
        ("", "names no repo"),
        ("a b/c", "names no repo"),
        ("a/../b", "names no repo"),
        ("a--b/c", "names no repo"),
        ("zoë/c", "names no repo"),
        ("x" * 600, "too long"),
        ("a/b@feat x", "cannot be a revision"),
        ("a/b@../../etc", "cannot be a revision"),
        ("https://evil.example/a/b", "is an address of evil.example"),
        ("https://huggingface.co@evil.example/a/b", "is an address of"),
        ("https://huggingface.co.evil.example/a/b", "is an address of"),
        ("http://127.0.0.1:8000/a/b", "is an address of 127.0.0.1:8000"),
        ("ftp://[/a/b", "no address"),
        ("datasets/a/b", "belongs to the Hub's datasets"),
        ("https://huggingface.co/spaces/a/b", "belongs to the Hub's spaces"),
        ("file:///etc/passwd", "is an address of nowhere"),
    ],
)
def test_it_says_what_is_wrong_with_others(text: str, why: str) -> None:
    with pytest.raises(BadAddress, match=why):
        parse(text)


def test_the_hub_may_be_another_site(settings: Any) -> None:
    settings.HUB_ENDPOINT = "http://127.0.0.1:8001"
    assert parse("http://127.0.0.1:8001/a/b") == Address("a/b")
    assert parse("127.0.0.1:8001/a/b") == Address("a/b")
    for other in ("https://huggingface.co/a/b", "huggingface.co/a/b", "127.0.0.1:8002/a/b"):
        with pytest.raises(BadAddress, match=r"imports from 127\.0\.0\.1:8001 alone"):
            parse(other)
