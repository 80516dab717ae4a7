"""Composed adapters as files: built once a recipe in a worker, zipped for whoever downloads them.

Nothing here imports torch before `build` is called: the site zips, workers build.
"""

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.conf import settings

from composer import attribution, verifications
from composer.engine import card as engine_card
from composer.engine import recipe as engine_recipe
from composer.engine.adapter_file import CONFIG_NAME, WEIGHTS_NAME
from composer.engine.errors import CommonsError
from composer.engine.recipe import Recipe as PlainRecipe
from composer.models import Recipe, Search
from composer.verdict import methods, verdict
from modules.models import Blob
from modules.repos import snippets
from modules.storage import local
from modules.storage.local import StoredBlob

if TYPE_CHECKING:
    from composer.engine.base_model import BaseModel
    from composer.engine.batch import Batch
    from composer.engine.stack import Stack
    from hub_site.jobs.worker import Lease

EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold: equal content, equal bytes
# What is not for others: texts, and the names of modules that were only looked at.
PRIVATE = ("answers", "folds", "screening", "fold_ingredients", "left_out")


@dataclass(frozen=True)
class Built:
    """A composed adapter in the store, and what was seen when PEFT loaded it again."""

    blob: StoredBlob
    config: dict[str, Any]
    facts: dict[str, Any]

    def attach(self, recipe: Recipe) -> None:
        blob, _ = Blob.objects.get_or_create(
            sha256=self.blob.sha256,
            defaults={"size": self.blob.size, "git_sha1": self.blob.git_sha1},
        )
        recipe.adapter, recipe.adapter_config, recipe.adapter_facts = blob, self.config, self.facts
        recipe.save(update_fields=["adapter", "adapter_config", "adapter_facts"])


def build(
    recipe: PlainRecipe, base: "BaseModel", stack: "Stack", batch: "Batch", lease: "Lease"
) -> Built:
    """Write the recipe's adapter, load it with PEFT, compare, and keep its bytes.

    A full disk is not the search's fault, and all that it found is kept: the job waits for room.
    """
    from hub_site.jobs.worker import OutOfReach

    try:
        with local.told_when_full(), tempfile.TemporaryDirectory(prefix="adapter-") as folder:
            return _build(recipe, base, stack, batch, lease, Path(folder))
    except local.StoreFull as full:
        raise OutOfReach(
            "The disk is full, so the adapter could not be kept. It is built when there is room."
        ) from full


def _build(
    recipe: PlainRecipe,
    base: "BaseModel",
    stack: "Stack",
    batch: "Batch",
    lease: "Lease",
    folder: Path,
) -> Built:
    from composer.engine.finalise import finalise
    from modules.storage import fetching

    pinned = recipe.spec["base_model"]
    made = finalise(
        recipe,
        base,
        stack,
        folder,
        batch=batch,
        base_model=pinned["repo"],
        revision=pinned["revision"],
    )
    config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    blob = fetching.keep(folder / WEIGHTS_NAME, lease)
    facts = {**made.facts(), "size": blob.size, "sha256": blob.sha256}
    return Built(blob, config, {**facts, "example_losses": example_losses(base, batch)})


def example_losses(base: "BaseModel", batch: "Batch") -> list[float]:
    """How unlikely the base model alone finds each answer: of a recipe that is verified it tells
    which example was changed. As private as the examples are, for it could confirm a guess."""
    import torch

    from composer.engine.loss import answer_losses, default_chunk, parts

    batch = batch.to(base.device)
    at_once = default_chunk(base, batch).examples
    with torch.inference_mode():
        some = [answer_losses(base, None, rows)[0] for _, rows in parts(batch, at_once)]
    return [float(loss) for losses in some for loss in losses]


# --- what is public of a recipe ----------------------------------------------------------------


def public_evidence(search: Search, *, show_examples: bool) -> dict[str, Any]:
    """The evidence without private texts, or with them where their owner shows them. Losses by
    example are as private as the examples are, for they could confirm a guess."""
    evidence = {key: value for key, value in search.evidence.items() if key not in PRIVATE}
    losses: Any = None
    if "adapter" in evidence:
        evidence["adapter"] = dict(evidence["adapter"])
        losses = evidence["adapter"].pop("example_losses", None)
    if show_examples:
        # The salt stays: other searches of the task may have been on other examples.
        evidence["examples"] = {k: v for k, v in search.examples.items() if k != "salt"}
        evidence["example_losses"] = losses
        evidence["predictions"] = predictions(search)
    elif "methods" in evidence:
        evidence["methods"] = [
            {key: value for key, value in row.items() if key != "losses"}
            for row in evidence["methods"]
        ]
    found = verdict(search.evidence)
    if found:
        evidence["verdict"] = found.to_json()
    return evidence


def predictions(search: Search) -> list[dict[str, str]]:
    """One row a held-out example: what was asked, what was right, and what each method said."""
    answers = search.evidence.get("answers", {})
    rows = []
    for place, (given, wanted) in enumerate(search.examples["held_out"]):
        said = {key: column[place] for key, column in answers.items() if place < len(column)}
        rows.append({"input": given, "target": wanted, **said})
    return rows


def recipe_json(recipe: Recipe, search: Search | None = None) -> dict[str, Any]:
    """The recipe as page, API and zip give it. `search` is its owner's own, shown to them alone;
    without it, the search it was published from."""
    document = dict(recipe.document)
    if search is not None:
        document["evidence"] = public_evidence(search, show_examples=False)
    elif recipe.published_search is not None:
        document["evidence"] = public_evidence(
            recipe.published_search, show_examples=recipe.shows_examples
        )
    if settings.SITE_URL:
        document["evidence"] = {**document.get("evidence", {}), "site": settings.SITE_URL}
    if recipe.published_at is not None and (rows := verifications.public_rows(recipe)):
        document["evidence"] = {**document.get("evidence", {}), "verifications": rows}
    return document


# --- the zip -----------------------------------------------------------------------------------


def zip_name(recipe: Recipe) -> str:
    return f"adapter-{recipe.digest[:12]}.zip"


def zip_adapter(recipe: Recipe, search: Search | None = None, *, site: str = "") -> Iterator[bytes]:
    """The adapter as a zip, in chunks. The same recipe, evidence and site give the same bytes."""
    if recipe.adapter is None:
        raise CommonsError("This recipe's adapter has not been built.")
    weights = local.open(recipe.adapter.sha256)
    return _zip(texts(recipe, search, site=site), WEIGHTS_NAME, weights, recipe.adapter.size)


def texts(recipe: Recipe, search: Search | None = None, *, site: str = "") -> dict[str, str]:
    """The files beside the adapter's weights."""
    document = recipe_json(recipe, search)
    return {
        CONFIG_NAME: _json_text(recipe.adapter_config),
        "README.md": card(recipe, document.get("evidence", {}), site),
        "recipe.json": _json_text(document),
    }


def _zip(
    texts: Mapping[str, str], name: str, stream: Iterable[bytes], size: int
) -> Iterator[bytes]:
    buffer = _Buffer()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for each, text in texts.items():
            archive.writestr(_entry(each), text.encode())
        entry = _entry(name)
        entry.file_size = size
        with archive.open(entry, "w") as file:
            for chunk in stream:
                file.write(chunk)
                yield buffer.taken()
    yield buffer.taken()


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.external_attr = 0o644 << 16
    entry.create_system = 3
    return entry


class _Buffer(io.RawIOBase):
    """Takes what zipfile writes and gives it on; a zip of any size costs no memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        data, self._parts = b"".join(self._parts), []
        return data


def _json_text(document: Any) -> str:
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


# --- words that go with an adapter -------------------------------------------------------------


def card(recipe: Recipe, evidence: Mapping[str, Any], site: str) -> str:
    """The README.md of an adapter."""
    facts = {"r": recipe.adapter_config.get("r"), **recipe.adapter_facts}
    found = attribution.of_recipe(recipe)
    return engine_card.card(
        engine_recipe.check(recipe.document),
        title=recipe.title,
        adapter=facts,
        snippet=snippet(recipe, site),
        opening=_verdict_lines(evidence),
        sources=[(each.author, each.terms.name if each.terms else "–") for each in found],
        notices=attribution.notices(found),
    )


def snippet(recipe: Recipe, site: str = "") -> str:
    """Python that loads the adapter, on the base model that the recipe names: it may have moved
    on since."""
    spec = recipe.document["spec"]
    return snippets.python(
        snippets.Loading(
            site=site or "http://127.0.0.1:8000",
            base=recipe.base_model,
            base_name=recipe.base_name,
            base_revision=spec["base_model"]["revision"],
            adapter='"adapter"  # the folder of this file, unzipped',
            template=spec["template"],
        )
    )


def _verdict_lines(evidence: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if "verdict" in evidence:
        lines += [evidence["verdict"]["sentence"], ""]
        if evidence["verdict"].get("not_measured"):
            lines += [f"Not measured: {', '.join(evidence['verdict']['not_measured'])}.", ""]
    rows = methods(evidence)
    if rows:
        lines += ["| method | right | 95% interval |", "|---|---|---|"]
        lines += [f"| {row.name} | {row.score} | {row.low:.2f} to {row.high:.2f} |" for row in rows]
        lines.append("")
    return lines


def digest_of(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
