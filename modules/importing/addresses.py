"""What people paste to name a repo on the Hub: its id, or any address of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from django.conf import settings

from composer.engine.errors import CommonsError

LONGEST = 500
ALSO = {"huggingface.co": ("www.huggingface.co", "hf.co")}
IN_A_REPO = ("tree", "blob", "resolve", "raw", "commit", "commits")
OTHERS = ("datasets", "spaces", "kernels", "collections", "papers", "buckets")
ID = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?/[A-Za-z0-9](?:[\w.-]{0,94}\w)?", re.ASCII)
REVISION = re.compile(r"[\w.+-]+(?:/[\w.+-]+)*", re.ASCII)


class BadAddress(CommonsError):
    code = "bad_address"


@dataclass(frozen=True)
class Address:
    """A repo of the Hub; without a revision, the newest of its main branch."""

    hub_id: str
    revision: str = ""
    name: str = ""  # what it shall be called here, where that is not its name there

    @property
    def own_name(self) -> str:
        return self.hub_id.partition("/")[2]

    def __str__(self) -> str:
        return f"{self.hub_id}@{self.revision}" if self.revision else self.hub_id


def parse(text: str) -> Address:
    """`owner/name`, `owner/name@revision`, or an address of it in a browser; ` as NAME` may follow.

    The host of an address is compared, never asked: what is imported comes from HUB_ENDPOINT.
    """
    text = " ".join(text.split())
    if len(text) > LONGEST:
        raise BadAddress(f"{text[:60]!r}… is too long for the address of a repo.")
    place, _, name = text.partition(" as ")
    path = _path(place)
    hub_id, revision = _split(path, place)
    revision = "" if revision == "main" else revision
    if not ID.fullmatch(hub_id) or "--" in hub_id or ".." in hub_id:
        raise BadAddress(
            f"{place!r} names no repo. Write owner/name as on the Hub, such as "
            "lorahub/flan_t5_large-wiki_qa, or paste the address of its page."
        )
    if revision and (not REVISION.fullmatch(revision) or ".." in revision or len(revision) > 200):
        raise BadAddress(f"{revision!r} cannot be a revision. Write a branch, a tag or a commit.")
    return Address(hub_id, revision, name.strip())


def site_of_hub() -> str:
    """The Hub as people call it: its host."""
    return urlsplit(settings.HUB_ENDPOINT).netloc or settings.HUB_ENDPOINT


def _path(place: str) -> str:
    """What follows the host, if there is one and it is the Hub's."""
    ours = site_of_hub().lower()
    if place.lower().startswith("hf://"):
        return place[5:]
    if "://" in place:
        try:
            split = urlsplit(place)
        except ValueError as error:
            raise BadAddress(f"{place!r} is no address that anything could be at.") from error
        host, path = split.netloc.lower(), split.path
    else:
        host, _, path = place.partition("/")
        host = host.lower()
        if "/" not in path or host.partition(":")[0] not in _hosts(ours):
            return place.partition("?")[0].partition("#")[0]  # an id
    if host not in (ours, *ALSO.get(ours, ())):
        raise BadAddress(
            f"{place!r} is an address of {host or 'nowhere'}. This site imports from {ours} alone; "
            "download the files there and upload them here."
        )
    return path


def _hosts(ours: str) -> set[str]:
    known = {name for pair in ALSO.items() for name in (pair[0], *pair[1])}
    return {ours.partition(":")[0], *known}


def _split(path: str, place: str) -> tuple[str, str]:
    words = [unquote(word) for word in path.strip("/").split("/")]
    if words[0] == "models" and len(words) > 2:
        words = words[1:]
    if words[0] in OTHERS:
        raise BadAddress(
            f"{place!r} is no model: it belongs to the Hub's {words[0]}. Only repos of models hold "
            "LoRA modules."
        )
    if len(words) > 3 and words[2] in IN_A_REPO:
        # A branch's slashes are escaped in an address, so the first word is all of it.
        return "/".join(words[:2]), words[3]
    hub_id, _, revision = "/".join(words).partition("@")
    return hub_id, revision
