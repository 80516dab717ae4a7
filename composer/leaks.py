"""Whether what is measured could have been seen before: by the choice of modules, by what they were
trained on, or by whoever looked at the same test again and again."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.utils.crypto import salted_hmac

from composer.engine.examples import Example
from composer.models import Recipe, Search
from hub_site.jobs.models import Job

if TYPE_CHECKING:
    from hub_site.accounts.models import User

FEWEST_OF_OTHERS = 5  # examples that nobody guesses all at once
FEWEST_LETTERS = 4  # of a name of a data set that is looked for in a task's words


def split_rule(test_folds: int, seed: int) -> str:
    """How the recipe's examples were kept apart from what measures it."""
    return f"{test_folds} folds of the examples, seed {seed}" if test_folds else "as given"


def evidence(
    remixed: Search | Recipe | None,
    held_out: Sequence[Example],
    user: User,
    folded: Sequence[Example] = (),
) -> dict[str, Any]:
    """What is known when a search is submitted: test examples that helped to choose what is reused.

    folded: the examples, where they are cut into folds and nothing else is held out. What was
    ranked by them all is told; a ranking of the search's own is made anew for each fold.
    Within a task `examples.check` refuses an input that stands on both sides.
    """
    source = remixed.published_search if isinstance(remixed, Recipe) else remixed
    if source is None:
        return {}
    tested = held_out or (folded if "screening" in source.evidence else ())
    seen = {_alike(given) for given, _ in source.examples["shots"]}
    found = [place for place, example in enumerate(tested) if _alike(example.input) in seen]
    if len(found) < FEWEST_OF_OTHERS and not _may_read(remixed, source, user):
        return {}
    return {"leaks": {"reused": found}} if found else {}


def _may_read(remixed: Search | Recipe | None, source: Search, user: User) -> bool:
    """Of examples that are not this visitor's to see, single ones would confirm a guess."""
    is_shown = isinstance(remixed, Recipe) and remixed.shows_examples
    task = source.task_shown_to(user)
    is_public = task is not None and task.is_public
    return is_shown or is_public or Job.objects.filter(pk=source.pk, user=user).exists()


def named_in(training_data: str, words: Iterable[str]) -> list[str]:
    """Names of data sets in what a module says it was trained on that also stand in these words.

    A name is compared by its letters and digits alone: "boolean_expressions" is "Boolean
    expressions".
    """
    around = f" {' '.join(_plain(each) for each in words)} "
    names = re.split(r"[,;\n]|\band\b", training_data)
    found = []
    for name in names:
        plain = _plain(name.rpartition("/")[2])
        if len(plain) >= FEWEST_LETTERS and f" {plain} " in around:
            found.append(name.strip())
    return found


def hash_of_test(held_out: Sequence[Example]) -> str:
    """What a test set is known by when it is opened again: in a copy of its task too, and in any
    order. Nobody outside can make it of a guess."""
    if not held_out:
        return ""
    rows = sorted([example.input, example.target] for example in held_out)
    text = json.dumps(rows)
    return salted_hmac("composer.leaks", text, algorithm="sha256").hexdigest()


def times_opened(search: Search, user: User) -> int:
    """How often this user has measured something on the same held-out examples, this time
    included."""
    if not search.held_out_hash:
        return 0
    same = Search.objects.filter(held_out_hash=search.held_out_hash, job__user=user)
    return same.filter(evidence__has_key="methods").count()


def warnings(search: Search, training_data: Mapping[str, str]) -> list[str]:
    """What a reader of the verdict must know, in words. training_data: by module."""
    told = []
    found = search.evidence.get("leaks", {})
    if reused := len(found.get("reused", [])):
        told.append(
            f"{reused} of the test examples {'was' if reused == 1 else 'were'} among the examples "
            "that these modules were chosen by. What is measured on them flatters the composition."
        )
    if ranked := len(found.get("ranked", [])):
        told.append(
            f"Modules were ranked before by {ranked} of the examples that this is measured on. If "
            "these were chosen for it, what is measured flatters the composition."
        )
    words = [search.title, *([search.task.description] if search.task else [])]
    for module, text in training_data.items():
        if names := named_in(text, words):
            told.append(
                f"{module} says it was trained on {', '.join(names)}, which this task is named "
                "after. It may have seen the test examples."
            )
    return told


def _alike(text: str) -> str:
    """An input without what may differ in a copy: case, width, spaces, marks at its end. What else
    stands there counts: "3 + 4" is not "3 - 4"."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.rstrip(".,;:!? ") or plain


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))
