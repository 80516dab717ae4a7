"""Composed adapters as files: built once a recipe in a worker, zipped for whoever downloads them.

Nothing here imports torch before `build` is called: the site zips, workers build.
"""

import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.engine.adapter_file import CONFIG_NAME, WEIGHTS_NAME
from composer.engine.errors import CommonsError
from composer.engine.prompt import Template
from composer.engine.recipe import Recipe as PlainRecipe
from composer.engine.recipe import canonical, config_of
from composer.models import Recipe, Search
from composer.verdict import methods, verdict
from modules.models import Blob
from modules.repos import snippets
from modules.storage import local
from modules.storage.local import StoredBlob

if TYPE_CHECKING:
    from torch import Tensor

    from composer.engine.base_model import BaseModel
    from composer.engine.batch import Batch
    from composer.engine.compose import Factors
    from composer.engine.stack import Stack
    from hub_site.jobs.worker import Lease

# What PEFT computes from the file may differ from the search by rounding, and by no more. Where a
# model has 16 bits every layer rounds, and PEFT keeps the factors in 32: in bfloat16 (ε = 0.0078)
# losses of random models of 8 layers, and of 6 and 6, were seen to differ by up to 0.7%.
TOLERANCE = 1e-3
TOLERANCE_IN_EPSILONS = 4
PROBE = "hello"
PROBE_TOKENS = 5
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first date a zip can hold: equal content, equal bytes
# What is not for others: texts, and the names of modules that were only looked at.
PRIVATE = ("answers", "screening")


class AdapterDiffers(CommonsError):
    """PEFT does not compute from the file what the search computed: it must not be handed out."""

    code = "adapter_differs"


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
    """Write the recipe's adapter, load it with PEFT, compare, and keep its bytes."""
    from composer.engine.compose import compose
    from composer.engine.export import export
    from modules.storage import fetching

    pinned = recipe.spec["base_model"]
    with tempfile.TemporaryDirectory(prefix="adapter-") as folder:
        settings = config_of(recipe.spec)
        made = export(
            recipe.weights,
            stack,
            settings.combination,
            folder,
            blocks=settings.blocks,
            rank=settings.rank,
            base_model=pinned["repo"],
            revision=pinned["revision"],
            recipe=canonical(recipe).decode(),
        )
        written = made.as_stack(stack)
        if made.errors:  # cut down: what was searched is not what is handed out
            factors = compose([[1.0]], written, "sum")
        else:
            factors = compose([recipe.weights], stack, settings.combination, settings.blocks)
        seen = _load_again(Path(folder), recipe, base, factors, batch)
        config = json.loads((Path(folder) / CONFIG_NAME).read_text(encoding="utf-8"))
        blob = fetching.keep(Path(folder) / WEIGHTS_NAME, lease)
    facts = {**made.facts(), "size": blob.size, "sha256": blob.sha256, **seen}
    return Built(blob, config, facts)


def _load_again(
    folder: Path, recipe: PlainRecipe, base: "BaseModel", factors: "Factors", batch: "Batch"
) -> dict[str, Any]:
    """Losses of the examples, and the logits of a probe, by the engine and by PEFT from the file.

    PEFT puts its layers into the base model that the worker keeps; `unload` takes them out again.
    """
    import torch
    from peft import PeftModel

    from composer.engine.batch import prompt_text
    from composer.engine.loss import answer_losses, default_chunk, parts

    kind = {"is_encoder_decoder": base.is_encoder_decoder}
    asked = Template(recipe.spec["template"], bool(recipe.spec.get("chat_template")))
    prompt = prompt_text(PROBE, asked, base.tokenizer, **kind)

    def measured(model: "BaseModel", factors: "Factors | None") -> tuple[torch.Tensor, ...]:
        at_once = default_chunk(model, batch).examples
        some = [answer_losses(model, factors, rows) for _, rows in parts(batch, at_once)]
        return torch.cat(some, dim=1), _probe(model, asked, factors)

    with torch.inference_mode():
        ours = measured(base, factors)
        loaded = PeftModel.from_pretrained(base.model, str(folder))
        try:
            loaded.eval()  # with PEFT's layers in the base model
            theirs = measured(replace(base, model=loaded.get_base_model()), None)
        finally:
            loaded.unload()
    losses, logits = (float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    # Losses are sums over answer tokens; what rounding does grows with them.
    allowed = max(TOLERANCE, TOLERANCE_IN_EPSILONS * torch.finfo(base.model.dtype).eps)
    if not losses <= allowed * max(1.0, float(ours[0].abs().max())):
        raise AdapterDiffers(
            "The adapter file does not compute what the search computed (losses differ by "
            f"{losses:.2g}), so it is not handed out. Please report this."
        )
    top = theirs[1].topk(min(PROBE_TOKENS, len(theirs[1])))
    return {
        "max_difference": losses,
        "logit_difference": logits,
        "probe": {
            "prompt": prompt,
            "token_ids": top.indices.tolist(),
            "logits": [round(value, 5) for value in top.values.tolist()],
        },
    }


def _probe(base: "BaseModel", asked: Template, factors: "Factors | None") -> "Tensor":
    """Logits (V,) of the first token after a fixed prompt, for whoever loads it to compare."""
    import torch

    from composer.engine.batch import encode_prompts
    from composer.engine.population import attached

    kind = {"is_encoder_decoder": base.is_encoder_decoder}
    ids, mask = encode_prompts([PROBE], asked, base.tokenizer, **kind)
    inputs = {"input_ids": ids.to(base.device), "attention_mask": mask.to(base.device)}
    if base.is_encoder_decoder:
        start = base.model.config.decoder_start_token_id
        inputs["decoder_input_ids"] = torch.full((1, 1), start, device=base.device)
    with nullcontext() if factors is None else attached(base, factors, rows=1):
        return base.model(**inputs).logits[0, -1].float()


# --- what is public of a recipe ----------------------------------------------------------------


def public_evidence(search: Search, *, show_examples: bool) -> dict[str, Any]:
    """The evidence without private texts, or with them where their owner shows them."""
    evidence = {key: value for key, value in search.evidence.items() if key not in PRIVATE}
    if show_examples:
        evidence["examples"] = search.examples
        evidence["predictions"] = predictions(search)
    found = verdict(search.evidence)
    if found:
        evidence["verdict"] = {"kind": found.kind, "sentence": found.sentence}
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
    """The README.md of an adapter, with the front matter that the Hub reads."""
    pinned = recipe.document["spec"]["base_model"]
    front = {
        "base_model": pinned["repo"],
        "library_name": "peft",
        "tags": ["lora", "lora-commons", recipe.document["spec"]["combination"]],
    }
    lines = [
        "---",
        *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()),
        "---",
        f"# {_one_line(recipe.title)}",
        "",
        f"A LoRA adapter composed from {len(recipe.document['weights'])} modules of "
        f"`{pinned['repo']}` (revision `{pinned['revision']}`). It is a plain PEFT adapter of rank "
        f"{recipe.adapter_config.get('r')}.",
        "",
        *_verdict_lines(evidence),
        "## How it is loaded",
        "```python",
        snippet(recipe, site),
        "```",
        "",
        "## Ingredients",
        "| module | revision | weight |",
        "|---|---|---|",
        *(
            f"| {each.name} | `{each.revision[:12]}` | {each.weight:+.4f} |"
            for each in recipe.ingredients.all()
        ),
        "",
        f"Recipe `{recipe.digest}`: `recipe.json` beside this file holds everything needed to "
        "run the search again.",
        "",
    ]
    return "\n".join(lines)


def snippet(recipe: Recipe, site: str = "") -> str:
    """Python that loads the adapter, on the base model that the recipe names: it may have moved
    on since."""
    spec = recipe.document["spec"]
    return snippets.python(
        snippets.Loading(
            site=site or "http://127.0.0.1:8000",
            base=recipe.base_model,
            base_revision=spec["base_model"]["revision"],
            adapter='"adapter"  # the folder of this file, unzipped',
            template=spec["template"],
        )
    )


def _verdict_lines(evidence: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    if "verdict" in evidence:
        lines += [evidence["verdict"]["sentence"], ""]
    rows = methods(evidence)
    if rows:
        lines += ["| method | right | 95% interval |", "|---|---|---|"]
        lines += [
            f"| {row.name} | {row.correct} of {row.total} | {row.low:.2f} to {row.high:.2f} |"
            for row in rows
        ]
        lines.append("")
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def digest_of(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
