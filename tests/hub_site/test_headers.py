import re

import pytest
from django.test import Client

from hub_site.headers import POLICY


@pytest.mark.parametrize(
    "path", ["/", "/accounts/login/", "/api/docs/", "/modules/", "/nothing-is-here"]
)
def test_every_page_keeps_to_the_same_strict_policy(client: Client, db: None, path: str) -> None:
    answer = client.get(path)
    assert answer["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY and "default-src 'self'" in POLICY
    page = answer.content.decode()
    assert "</html>" in page
    assert not re.search(r"<style|<script(?![^>]* src=)|<[^>]* (style|on[a-z]+)=", page), path


def test_the_apis_script_is_a_file_of_its_own(client: Client, db: None) -> None:
    page = client.get("/api/docs/").content.decode()
    address = re.findall(r'<script src="(/api/docs/[^"]*)"', page)
    assert len(address) == 1
    script = client.get(address[0])
    assert script.status_code == 200 and "javascript" in script["Content-Type"]
    assert "/api/schema/" in script.content.decode().replace("\\u002D", "-")
