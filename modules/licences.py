"""Licences by their SPDX ids, written as the Hub writes them: small letters. Common ones first."""

from __future__ import annotations

OTHER = "other"
COMMON = {
    "apache-2.0": "Apache License 2.0",
    "mit": "MIT License",
    "cc-by-4.0": "Creative Commons Attribution 4.0",
    "cc-by-sa-4.0": "Creative Commons Attribution ShareAlike 4.0",
    "cc-by-nc-4.0": "Creative Commons Attribution NonCommercial 4.0",
    "cc0-1.0": "Creative Commons Zero 1.0",
    "openrail": "OpenRAIL",
    "bigscience-openrail-m": "BigScience OpenRAIL-M",
    "llama3.1": "Llama 3.1 Community License",
    "gemma": "Gemma Terms of Use",
}
REST = {
    "afl-3.0": "Academic Free License 3.0",
    "agpl-3.0": "GNU Affero General Public License 3.0",
    "artistic-2.0": "Artistic License 2.0",
    "bigcode-openrail-m": "BigCode OpenRAIL-M",
    "bigscience-bloom-rail-1.0": "BigScience BLOOM RAIL 1.0",
    "bsd": "BSD licence, any",
    "bsd-2-clause": 'BSD 2-Clause "Simplified"',
    "bsd-3-clause": 'BSD 3-Clause "New" or "Revised"',
    "bsl-1.0": "Boost Software License 1.0",
    "c-uda": "Computational Use of Data Agreement 1.0",
    "cc": "Creative Commons, any",
    "cc-by-2.0": "Creative Commons Attribution 2.0",
    "cc-by-3.0": "Creative Commons Attribution 3.0",
    "cc-by-nc-2.0": "Creative Commons Attribution NonCommercial 2.0",
    "cc-by-nc-3.0": "Creative Commons Attribution NonCommercial 3.0",
    "cc-by-nc-nd-4.0": "Creative Commons Attribution NonCommercial NoDerivatives 4.0",
    "cc-by-nc-sa-3.0": "Creative Commons Attribution NonCommercial ShareAlike 3.0",
    "cc-by-nc-sa-4.0": "Creative Commons Attribution NonCommercial ShareAlike 4.0",
    "cc-by-nd-4.0": "Creative Commons Attribution NoDerivatives 4.0",
    "cc-by-sa-3.0": "Creative Commons Attribution ShareAlike 3.0",
    "cdla-permissive-1.0": "Community Data License Agreement Permissive 1.0",
    "cdla-permissive-2.0": "Community Data License Agreement Permissive 2.0",
    "cdla-sharing-1.0": "Community Data License Agreement Sharing 1.0",
    "creativeml-openrail-m": "CreativeML OpenRAIL-M",
    "ecl-2.0": "Educational Community License 2.0",
    "epl-1.0": "Eclipse Public License 1.0",
    "epl-2.0": "Eclipse Public License 2.0",
    "eupl-1.1": "European Union Public Licence 1.1",
    "eupl-1.2": "European Union Public Licence 1.2",
    "gfdl": "GNU Free Documentation License, any",
    "gpl": "GNU General Public License, any",
    "gpl-2.0": "GNU General Public License 2.0",
    "gpl-3.0": "GNU General Public License 3.0",
    "isc": "ISC License",
    "lgpl": "GNU Lesser General Public License, any",
    "lgpl-2.1": "GNU Lesser General Public License 2.1",
    "lgpl-3.0": "GNU Lesser General Public License 3.0",
    "llama2": "Llama 2 Community License",
    "llama3": "Llama 3 Community License",
    "llama3.2": "Llama 3.2 Community License",
    "llama3.3": "Llama 3.3 Community License",
    "lppl-1.3c": "LaTeX Project Public License 1.3c",
    "mpl-2.0": "Mozilla Public License 2.0",
    "ms-pl": "Microsoft Public License",
    "ncsa": "University of Illinois/NCSA Open Source License",
    "odbl": "Open Database License 1.0",
    "odc-by": "Open Data Commons Attribution 1.0",
    "ofl-1.1": "SIL Open Font License 1.1",
    "openrail++": "OpenRAIL++",
    "osl-3.0": "Open Software License 3.0",
    "pddl": "Open Data Commons Public Domain Dedication 1.0",
    "postgresql": "PostgreSQL License",
    "unlicense": "The Unlicense",
    "wtfpl": "Do What The F*ck You Want To Public License",
    "zlib": "zlib License",
}
KNOWN = COMMON | dict(sorted(REST.items())) | {OTHER: "Another licence, told in the card"}


def canonical(name: str) -> str:
    """The usual spelling of a known licence; anything else as it was written."""
    return name.lower() if name.lower() in KNOWN else name


def choices() -> list[tuple[str, str | list[tuple[str, str]]]]:
    """For a select: nothing, the common ones, the rest, another."""
    return [
        ("", "Choose a licence"),
        ("Common", [(key, f"{key} · {title}") for key, title in COMMON.items()]),
        ("More", [(key, f"{key} · {title}") for key, title in sorted(REST.items())]),
        ("None of these", [(OTHER, KNOWN[OTHER])]),
    ]
