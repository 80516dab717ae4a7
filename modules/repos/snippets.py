"""Lines to copy that use what this site holds. Tests run the Python as it is shown.

This is the one place that writes "fetch it and load it"; the composer's adapters use `python` too.
A base model that the site keeps is fetched from the site and loaded from a folder: elsewhere, its
name could be a stranger's.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from modules.models import BaseModel, Commit, LoraModule, Repo

# Without a token said, the client would send the one that it keeps for the Hugging Face Hub.
FETCH = '''\
SITE, TOKEN = {site}, {token}


def fetch(name, revision):
    """Download one version from this site and say where it lies."""
    return snapshot_download(name, revision=revision, endpoint=SITE, token=TOKEN)
'''
SEQ2SEQ, CAUSAL = "AutoModelForSeq2SeqLM", "AutoModelForCausalLM"
# PEFT's task types and the classes of transformers that they are trained with.
CLASSES = {
    "SEQ_2_SEQ_LM": SEQ2SEQ,
    "CAUSAL_LM": CAUSAL,
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}
# Decoder-only architectures, as config.json names them, that vLLM's table of supported models
# marks for LoRA; dense ones only, since adapters of mixtures of experts need more than a rank.
VLLM_SERVES = frozenset(
    {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
    | {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "PhiForCausalLM"}
    | {"Phi3ForCausalLM", "GraniteForCausalLM", "CohereForCausalLM", "Cohere2ForCausalLM"}
    | {"OPTForCausalLM", "OlmoForCausalLM", "Olmo2ForCausalLM", "Olmo3ForCausalLM"}
    | {"SmolLM3ForCausalLM", "Starcoder2ForCausalLM", "GlmForCausalLM", "Glm4ForCausalLM"}
    | {"InternLM2ForCausalLM", "InternLM3ForCausalLM", "NemotronForCausalLM"}
)
# What its --max-lora-rank may be.
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Snippet:
    """One tab: what it is called, and what is copied."""

    key: str
    title: str
    code: str


def for_module(module: LoraModule, commit: Commit, site: str) -> list[Snippet]:
    """Every way that works for this very module, the surest first."""
    repo = module.repo
    loading = Loading(
        site=site,
        base=module.base_model,
        base_name=module.base_model_name,
        task_type=module.task_type,
        adapter=f'fetch("{repo}", "{commit.sha}")',
        needs_token=repo.needs_token,
    )
    found = [Snippet("peft", "PEFT", python(loading))]
    # load_adapter puts LoRA layers in and nothing else: no DoRA, no retrained layers.
    if not module.not_composable and loading.generates:
        found.append(Snippet("transformers", "transformers", python(loading, with_peft=False)))
    found.append(Snippet("hf", "hf download", _hf(repo, commit, site)))
    if vllm := _vllm(module, commit, site):
        found.append(Snippet("vllm", "vLLM", vllm))
    return [*found, Snippet("curl", "curl", for_shell(repo, commit, site))]


def for_base_model(base: BaseModel, repo: Repo, commit: Commit, site: str) -> list[Snippet]:
    loading = Loading(
        site=site, base=base, fetch_base=(str(repo), commit.sha), needs_token=repo.needs_token
    )
    return [
        Snippet("transformers", "transformers", python(loading)),
        Snippet("curl", "curl", for_shell(repo, commit, site)),
    ]


def for_shell(repo: Repo, commit: Commit, site: str) -> str:
    """The same download without Python."""
    token = '-H "Authorization: Bearer $COMMONS_TOKEN" ' if repo.needs_token else ""
    return (
        f'curl {token}-o {repo.name}.zip "{_zip(site, str(repo), commit.sha)}"\n'
        f"unzip {repo.name}.zip -d {repo.name}"
    )


# --- Python ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loading:
    """What Python needs to know to load a base model, and perhaps an adapter on it."""

    site: str
    base: BaseModel | None
    base_name: str = ""  # as the adapter's config names it, when the site does not know it
    base_revision: str = ""  # the base model's own when empty
    fetch_base: tuple[str, str] | None = None
    task_type: str = ""
    adapter: str = ""  # a Python expression: where its folder is
    template: str = ""
    needs_token: bool = False

    @property
    def model_class(self) -> str:
        if self.task_type in CLASSES and self.task_type not in ("SEQ_2_SEQ_LM", "CAUSAL_LM"):
            return CLASSES[self.task_type]
        if self.base is not None:
            return SEQ2SEQ if self.base.is_encoder_decoder else CAUSAL
        return CLASSES.get(self.task_type, CAUSAL)

    @property
    def generates(self) -> bool:
        return self.model_class in (SEQ2SEQ, CAUSAL)

    @property
    def folder_of_base(self) -> str:
        """A Python expression."""
        if self.fetch_base is not None:
            return "fetch({}, {})".format(*map(json.dumps, self.fetch_base))
        base = self.base
        if base is not None and base.source == base.SITE and base.repo is not None:
            revision = self.base_revision or base.revision
            return f"fetch({json.dumps(str(base.repo))}, {json.dumps(revision)})"
        # The name stands in a stranger's file: as a literal it cannot be anything but a name.
        name = base.name if base is not None else self.base_name
        return json.dumps(f"path/to/{name or 'the-base-model'}")


def python(loading: Loading, *, with_peft: bool = True) -> str:
    """Load the base model, the adapter on it if there is one, and answer one input."""
    has_adapter = bool(loading.adapter)
    imports = [f"from transformers import {loading.model_class}, AutoTokenizer"]
    if has_adapter and with_peft:
        imports.insert(0, "from peft import PeftModel")
    body = [
        f"base = {loading.folder_of_base}",
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        f"model = {loading.model_class}.from_pretrained(base)",
    ]
    if has_adapter:
        body.append(f"adapter = {loading.adapter}")
        body.append(
            "model = PeftModel.from_pretrained(model, adapter)"
            if with_peft
            else "model.load_adapter(adapter)  # needs the package peft too"
        )
        body += ["", *_answer(loading)]
    code = "\n".join(body)
    return _head(loading, imports, fetches="fetch(" in code) + code


def _answer(loading: Loading) -> list[str]:
    given, lines = json.dumps("your input here"), []
    if loading.template:
        template = json.dumps(loading.template, ensure_ascii=False)
        lines = [f'prompt = {template}.replace("{{input}}", {given})']
        given = "prompt"
    lines.append(f'inputs = tokenizer({given}, return_tensors="pt")')
    if loading.generates:
        return [
            *lines,
            "answer = model.generate(**inputs, max_new_tokens=32)[0]",
            "print(tokenizer.decode(answer, skip_special_tokens=True))",
        ]
    return [*lines, "print(model(**inputs))"]


def _head(loading: Loading, imports: Iterable[str], *, fetches: bool) -> str:
    """The imports, and the function `fetch(name, revision)` where something is fetched."""
    if not fetches:
        return "\n".join([*imports, "", ""])
    token = 'environ["COMMONS_TOKEN"]' if loading.needs_token else "False"
    lines = [
        *(["from os import environ", ""] if loading.needs_token else []),
        "from huggingface_hub import snapshot_download",
        *imports,
        "",
        FETCH.format(site=json.dumps(loading.site.rstrip("/")), token=token),
        "",
        "",
    ]
    return "\n".join(lines)


# --- the shell ---------------------------------------------------------------------------------


def _hf(repo: Repo, commit: Commit, site: str) -> str:
    lines = [f"export HF_ENDPOINT={shlex.quote(site.rstrip('/'))}"]
    if repo.needs_token:
        lines.append('export HF_TOKEN="$COMMONS_TOKEN"')
    lines.append(f"hf download {repo} --revision {commit.sha} --local-dir {repo.name}")
    return "\n".join(lines)


def _vllm(module: LoraModule, commit: Commit, site: str) -> str:
    """Empty unless vLLM serves this architecture with adapters, and this adapter among them."""
    base = module.base_model
    if base is None or base.is_encoder_decoder or module.not_composable:
        return ""
    ranks = [rank for rank in VLLM_RANKS if rank >= module.r]
    if not ranks or not VLLM_SERVES & set(base.config.get("architectures") or ()):
        return ""
    lines = [for_shell(module.repo, commit, site)]
    folder = shlex.quote(f"path/to/{base.name}")
    if base.source == base.SITE and base.repo is not None:
        folder = base.repo.name
        lines.append(f'curl -o {folder}.zip "{_zip(site, str(base.repo), base.revision)}"')
        lines.append(f"unzip {folder}.zip -d {folder}")
    name = module.repo.name
    lines.append(
        f"vllm serve {folder} --enable-lora --max-lora-rank {ranks[0]} --lora-modules {name}={name}"
    )
    return "\n".join(lines)


def _zip(site: str, name: str, revision: str) -> str:
    return f"{site.rstrip('/')}/{name}/download.zip?revision={revision}"
