"""Which repos of the Hub, and who sees the modules they become."""

from __future__ import annotations

from typing import Any

from django import forms

from composer.engine.errors import CommonsError
from modules import services
from modules.importing import addresses
from modules.importing.addresses import Address
from modules.importing.asking import MOST_AT_ONCE
from modules.models import Repo
from modules.upload.forms import VISIBILITY

MOST_ERRORS = 5


class ImportForm(forms.Form):
    repos = forms.CharField(
        label="Repos on the Hub",
        max_length=MOST_AT_ONCE * addresses.LONGEST,
        widget=forms.Textarea(
            attrs={"rows": 6, "spellcheck": "false", "autocapitalize": "off", "class": "mono"}
        ),
        help_text=(
            "One a line: <code>owner/name</code>, <code>owner/name@revision</code> or the address "
            "of its page. <code>owner/name as other-name</code> gives it another name here."
        ),
    )
    visibility = forms.ChoiceField(
        choices=VISIBILITY, initial=Repo.PUBLIC, widget=forms.RadioSelect
    )

    def clean_repos(self) -> list[Address]:
        found: dict[str, Address] = {}
        wrong: list[str] = []
        lines = [line for line in self.cleaned_data["repos"].splitlines() if line.strip()]
        for line in lines:
            try:
                address = addresses.parse(line)
                if address.name:
                    services.check_repo_name(address.name)
                found.setdefault(address.hub_id.lower(), address)
            except CommonsError as error:
                wrong.append(error.user_message)
        if len(wrong) > MOST_ERRORS:
            wrong[MOST_ERRORS:] = [f"And {len(wrong) - MOST_ERRORS} more lines are wrong."]
        if wrong:
            raise forms.ValidationError(wrong)
        if len(found) > MOST_AT_ONCE:
            raise forms.ValidationError(
                f"These are {len(found)} repos; {MOST_AT_ONCE} are the most at once."
            )
        return list(found.values())


class FindForm(forms.Form):
    """All repos of an author whose names hold some words."""

    author = forms.CharField(max_length=96, label="Author on the Hub")
    search = forms.CharField(max_length=96, required=False, label="Words in the name")

    def clean_author(self) -> str:
        author: str = self.cleaned_data["author"].strip().strip("/")
        if not addresses.ID.fullmatch(f"{author}/x"):
            raise forms.ValidationError(f"“{author}” cannot be the name of an author.")
        return author


def as_lines(hub_ids: list[str]) -> dict[str, Any]:
    return {"repos": "\n".join(hub_ids)}
