"""Where files are kept, and the account on the Hub that may push them."""

from __future__ import annotations

from typing import Any

from django import forms

from hub_site.accounts.models import User
from modules.on_hub import keeping

CHOICES = {
    keeping.HERE: "This site: in its own store and nowhere else",
    keeping.HubHome.SITE: "This site's organisation on the Hub: downloads are led there",
    keeping.HubHome.OWN: "Your own account on the Hub: a repo of yours follows every version, and "
    "this site has a copy",
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
    field.choices = [(place, CHOICES[place]) for place in places]
    field.initial = initial if initial in places else keeping.HERE


class TokenForm(forms.Form):
    token = forms.CharField(
        label="Access token",
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="One that may write to repos under your name. It is kept encrypted, and used for "
        "nothing but what you ask for here.",
    )
