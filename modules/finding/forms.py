"""What visitors ask the library for; pages and API read the same fields."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from django import forms

from modules.finding import facets
from modules.finding.facets import Choice
from modules.finding.keyset import Order
from modules.querysets import LoraModuleQuerySet

TRENDING, DOWNLOADS, LIKES, NEWEST, NAME, BEST = (
    "trending", "downloads", "likes", "newest", "name", "best",
)  # fmt: skip
SORTS = {
    TRENDING: "Trending",
    DOWNLOADS: "Downloads",
    LIKES: "Likes",
    NEWEST: "Newest",
    NAME: "Name",
    BEST: "Best match",
}
ORDERS = {
    TRENDING: Order("trending"),
    DOWNLOADS: Order("downloads"),
    LIKES: Order("likes"),
    NEWEST: Order("published_at"),
    NAME: Order("name_key", descending=False),
    BEST: Order("rank"),
}
SEVERAL = ("tag", "target")  # a module can have several of these, and all can be asked for
FILTERS = (
    "base_model", "composable_with", "checked", "task", "r", "size", "tag", "target", "licence",
    "language", "gated", "owner",
)  # fmt: skip
EXACT = ("base_model", "target")  # the others are kept in small letters


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
    cleaned_data: dict[str, Any]

    q = forms.CharField(required=False, max_length=200, label="Search the modules")
    owner = forms.CharField(required=False, max_length=96)
    base_model = forms.CharField(required=False, max_length=200)
    composable_with = forms.CharField(required=False, max_length=200)
    checked = forms.BooleanField(required=False)
    task = forms.CharField(required=False, max_length=60)
    r = forms.IntegerField(required=False, min_value=1, max_value=65536)
    size = forms.ChoiceField(required=False, choices=list(facets.SIZES.items()))
    licence = forms.CharField(required=False, max_length=60)
    language = forms.CharField(required=False, max_length=40)
    gated = forms.ChoiceField(required=False, choices=list(facets.GATED.items()))
    tag = NamesField(required=False)
    target = NamesField(required=False)
    sort = forms.ChoiceField(required=False, choices=list(SORTS.items()))

    def leave_out_errors(self) -> None:
        """What could not be read is left out; the page says what that was."""
        blank: dict[str, Any] = dict.fromkeys(self.fields, "")
        blank |= {"tag": [], "target": [], "r": None, "checked": False}
        self.cleaned_data = blank | self.cleaned_data

    @property
    def order(self) -> Order:
        return ORDERS[self.sort_by]

    @property
    def sort_by(self) -> str:
        """A search is sorted by how well it fits, unless another order was asked for."""
        sort = self.cleaned_data.get("sort") or (BEST if self.has_words else TRENDING)
        return TRENDING if sort == BEST and not self.has_words else sort

    @property
    def is_ranked(self) -> bool:
        return self.sort_by == BEST

    @property
    def has_words(self) -> bool:
        return bool(self.cleaned_data.get("q"))

    @property
    def words(self) -> list[str]:
        """The filters as words of `LoraModule.facets`."""
        wanted = self.cleaned_data
        found = [
            f"{name}:{value if name in EXACT else str(value).lower()}"
            for name in facets.FACETS
            for value in (wanted[name] if name in SEVERAL else [wanted[name]])
            if value
        ]
        if wanted["composable_with"]:
            found.append(f"composable:{wanted['composable_with']}")
        return found + [facets.CHECKED] * bool(wanted["checked"])

    def narrow(self, modules: LoraModuleQuerySet) -> LoraModuleQuerySet:
        """These modules, as far as the filters let them through."""
        found = modules.with_facets(*self.words)
        owner, gated = self.cleaned_data["owner"], self.cleaned_data["gated"]
        found = found.gated(gated == "true") if gated else found
        return found.of_owner(owner) if owner else found

    def chosen(self, name: str) -> list[str]:
        value = self.cleaned_data[name]
        return value if name in SEVERAL else [str(value)] if value else []

    def active(self) -> list[Choice]:
        """The filters that are on, each as a link that takes it away."""
        words = {"r": "rank {}", "checked": "checked", "composable_with": "composable with {}",
                 "owner": "by {}"}  # fmt: skip
        return [
            Choice(
                words.get(name, "{}").format(facets.label(name, value)),
                0,
                self.toggled(name, value),
                True,
            )
            for name in FILTERS
            for value in self.chosen(name)
        ]

    def toggled(self, name: str, value: str) -> str:
        """The list's query with this value turned on or off, back on the first page."""
        query = dict(self._given)
        chosen = query.get(name, [])
        on = [one for one in chosen if one.lower() == value.lower()]
        if on or name == "checked" and chosen:
            query[name] = [one for one in chosen if one not in on and name != "checked"]
        else:
            query[name] = [*chosen, value] if name in SEVERAL else [value]
        if name == "composable_with" and not on:
            query.pop("base_model", None)
        return urlencode(query, doseq=True)

    def without(self, name: str) -> str:
        return urlencode({key: on for key, on in self._given.items() if key != name}, doseq=True)

    @cached_property
    def _given(self) -> dict[str, list[str]]:
        """What the address says, without its page and what is empty."""
        return {key: on for key, on in self.data.lists() if key != "after" and any(on)}
