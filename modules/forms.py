"""What visitors send to the library; pages and API read the same fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.db.models.functions import Lower

from modules.keyset import Order
from modules.querysets import LoraModuleQuerySet

NEWEST, NAME, USED, BEST = "newest", "name", "used", "best"
SORTS = {NEWEST: "Newest", NAME: "Name", USED: "Used in most recipes", BEST: "Best match"}
ORDERS = {
    NEWEST: Order("published_at"),
    NAME: Order("name_key", descending=False),
    USED: Order("recipe_count"),
    BEST: Order("rank"),
}


class NamesField(forms.Field):
    """Any number of names: `tag=a&tag=b`."""

    widget = forms.MultipleHiddenInput
    MOST, LONGEST = 10, 60

    def to_python(self, value: Any) -> list[str]:
        names = list(dict.fromkeys(str(name).strip() for name in value or [] if str(name).strip()))
        if len(names) > self.MOST:
            raise forms.ValidationError(f"At most {self.MOST} at once; you gave {len(names)}.")
        if any(len(name) > self.LONGEST or "\0" in name for name in names):
            raise forms.ValidationError(f"A name has at most {self.LONGEST} characters.")
        return names


class ModuleFilterForm(forms.Form):
    q = forms.CharField(required=False, max_length=200, label="Search the modules")
    owner = forms.CharField(required=False, max_length=96)
    base_model = forms.CharField(required=False, max_length=200)
    r = forms.IntegerField(required=False, min_value=1, max_value=65536)
    tag = NamesField(required=False)
    target = NamesField(required=False)
    sort = forms.ChoiceField(required=False, choices=list(SORTS.items()))

    @property
    def order(self) -> Order:
        return ORDERS[self.sort_by]

    @property
    def sort_by(self) -> str:
        """A search is sorted by how well it fits, unless another order was asked for."""
        sort = self.cleaned_data.get("sort") or (BEST if self.has_words else NEWEST)
        return NEWEST if sort == BEST and not self.has_words else sort

    @property
    def has_words(self) -> bool:
        return bool(self.cleaned_data.get("q"))

    def find(self, modules: LoraModuleQuerySet) -> LoraModuleQuerySet:
        """These modules, as far as they are what was asked for."""
        wanted = self.cleaned_data
        found = modules.search(wanted["q"]).tagged(*wanted["tag"]).targeting(*wanted["target"])
        if wanted["owner"]:
            found = found.of_owner(wanted["owner"])
        if wanted["base_model"]:
            found = found.on_base(wanted["base_model"])
        if wanted["r"]:
            found = found.of_rank(wanted["r"])
        return found

    def sort_rows(self, found: LoraModuleQuerySet) -> LoraModuleQuerySet:
        """With what the order sorts by."""
        return found.annotate(name_key=Lower("repo__name")) if self.sort_by == NAME else found


@dataclass(frozen=True)
class Choice:
    """A value of a facet: following its link turns it on or off."""

    label: str
    count: int
    query: str
    is_on: bool


@dataclass(frozen=True)
class Facet:
    name: str
    title: str
    term: str
    choices: list[Choice]


FACETS = {
    "base_model": ("Base model", "base model"),
    "r": ("Rank", "rank"),
    "tag": ("Tags", ""),
    "target": ("Target modules", "target modules"),
}


def facets(form: ModuleFilterForm, found: LoraModuleQuerySet) -> list[Facet]:
    """Links that narrow what was found, each with how much it would leave."""
    counted = found.facets()
    return [
        Facet(name, title, term, [_choice(form, name, *pair) for pair in counted[name]])
        for name, (title, term) in FACETS.items()
        if counted[name]
    ]


def active(form: ModuleFilterForm) -> list[Choice]:
    """The filters that are on, each as a link that takes it away."""
    wanted = form.cleaned_data
    chosen = [(name, str(wanted[name])) for name in ("owner", "base_model", "r") if wanted[name]]
    chosen += [(name, value) for name in ("tag", "target") for value in wanted[name]]
    return [
        Choice(f"rank {value}" if name == "r" else value, 0, _toggled(form, name, value), True)
        for name, value in chosen
    ]


def _choice(form: ModuleFilterForm, name: str, value: Any, count: int) -> Choice:
    text = str(value)
    return Choice(text, count, _toggled(form, name, text), text in form.data.getlist(name))


def _toggled(form: ModuleFilterForm, name: str, value: str) -> str:
    """The list's query with this value turned on or off, back on the first page."""
    query = form.data.copy()
    query.pop("after", None)
    chosen = query.getlist(name)
    if value in chosen:
        query.setlist(name, [one for one in chosen if one != value])
    elif name in ("tag", "target"):
        query.appendlist(name, value)
    else:
        query[name] = value
    for empty in [key for key in query if not any(query.getlist(key))]:
        del query[empty]
    return query.urlencode()
