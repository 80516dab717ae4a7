"""Where files are kept, and the account on the Hub that may push them."""

from __future__ import annotations

from typing import Any

from django import forms

from hub_site.accounts.models import User
from modules.on_hub import keeping

HELP = {
    keeping.HERE: "The site's own store, and nowhere else.",
    keeping.HubHome.SITE: "The Hub holds the bytes, in a repo of this site's; the site keeps "
    "hashes, checks and card, and leads downloads there.",
    keeping.HubHome.OWN: "A repo under your name there follows every version. The site keeps its "
    "own copy too.",
}


class PlaceForm(forms.Form):
    """Shown only to whoever has more than one place to choose from."""

    place = forms.ChoiceField(label="Where its files are kept", widget=forms.RadioSelect)

    def __init__(self, *args: Any, user: User, now: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.places = keeping.places(user)
        if now and now not in self.places:  # it is there, whatever became of the account
            self.places.append(now)
        add_place(self, self.places, now or keeping.default_place())

    @property
    def has_choice(self) -> bool:
        return len(self.places) > 1


def add_place(form: forms.Form, places: list[str], initial: str) -> None:
    field = form.fields["place"]
    assert isinstance(field, forms.ChoiceField)
    field.choices = [(place, f"{keeping.NAMES[place]}. {HELP[place]}") for place in places]
    field.initial = initial if initial in places else keeping.HERE


class TokenForm(forms.Form):
    token = forms.CharField(
        label="Access token",
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="One that may write to repos under your name. It is kept encrypted, and used for "
        "nothing but what you ask for here.",
    )
