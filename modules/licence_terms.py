"""What a licence asks of whoever uses a blend, in a few words: no legal advice, no more than its
id tells. Ids as in licences.py."""

from __future__ import annotations

from dataclasses import dataclass

from modules.licences import KNOWN, OTHER, canonical

COMMERCIAL = "forbids commercial use"
DERIVATIVES = "forbids passing on changed versions, and a blend is one"
ALIKE = "asks that what is made of it goes under the same licence"
USES = "limits what it may be used for"
UNKNOWN = "is not known here: read it before you use or pass on what is made of it"
NOT_STATED = "is not stated: without one nobody has allowed you anything"

# What weighs enough to be said first, of these the worst first.
FLAGGED = (NOT_STATED, UNKNOWN, DERIVATIVES, COMMERCIAL)
SHARE_ALIKE = (
    "-sa-",
    "gpl",
    "gfdl",
    "odbl",
    "cdla-sharing",
    "osl-",
    "eupl",
    "mpl-",
    "epl-",
    "ms-pl",
)
USE_LIMITS = ("openrail", "-rail-", "llama", "gemma", "c-uda")
# Ids that cover several licences, of which some forbid one of these.
ANY_OF_SEVERAL = ("cc",)


@dataclass(frozen=True)
class Terms:
    """A licence as it stands on a page: what it is called, and what has to be minded."""

    licence: str
    says: tuple[str, ...]

    @property
    def flags(self) -> tuple[str, ...]:
        return tuple(each for each in FLAGGED if each in self.says)

    @property
    def name(self) -> str:
        return self.licence or "not stated"


def terms(licence: str) -> Terms:
    """By the id; an unknown one that says "nc" or "nd" is believed."""
    name = canonical(licence.strip())
    lowered = f"-{name.lower()}-"
    says = []
    if not name:
        says.append(NOT_STATED)
    elif name == OTHER or name in ANY_OF_SEVERAL or name not in KNOWN:
        says.append(UNKNOWN)
    if "-nc-" in lowered:
        says.append(COMMERCIAL)
    if "-nd-" in lowered:
        says.append(DERIVATIVES)
    if any(part in lowered for part in SHARE_ALIKE):
        says.append(ALIKE)
    if any(part in lowered for part in USE_LIMITS):
        says.append(USES)
    return Terms(name, tuple(says))
