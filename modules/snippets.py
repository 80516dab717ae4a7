"""Python that uses what this site holds. A test runs it as it is shown.

A base model that the site keeps is fetched from the site and loaded from a folder: elsewhere, its
name could be a stranger's.
"""

from __future__ import annotations

import json

from modules.models import BaseModel, Commit, LoraModule, Repo

FETCH = '''\
def fetch(name, revision):
    """Download one version from {site} and say where it lies."""
    folder = Path("lora-commons", name, revision[:12])
    address = f"{site}/{{name}}/download.zip?revision={{revision}}"
    with urlopen({request}) as answer:
        ZipFile(BytesIO(answer.read())).extractall(folder)
    return folder
'''


USE = """
tokenizer = AutoTokenizer.from_pretrained(base)
model = {model_class}.from_pretrained(base)
"""


def for_module(module: LoraModule, commit: Commit, site: str) -> str:
    """Load the base model and this module on it, and answer one input."""
    base = module.base_model
    model_class = _class(base, module.task_type)
    imports = [
        "from peft import PeftModel",
        f"from transformers import {model_class}, AutoTokenizer",
    ]
    return (
        _head(site, imports, private=module.repo.is_private)
        + f"base = {_base(base, module.base_model_name)}"
        + USE.format(model_class=model_class)
        + f'adapter = fetch("{module.repo}", "{commit.sha}")\n'
        + "model = PeftModel.from_pretrained(model, adapter)\n\n"
        + 'inputs = tokenizer("your input here", return_tensors="pt")\n'
        + "print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))"
    )


def for_base_model(base: BaseModel, repo: Repo, commit: Commit, site: str) -> str:
    model_class = _class(base, "")
    imports = [f"from transformers import {model_class}, AutoTokenizer"]
    return (
        _head(site, imports, private=repo.is_private)
        + f'base = fetch("{repo}", "{commit.sha}")'
        + USE.format(model_class=model_class).rstrip()
    )


def for_shell(repo: Repo, commit: Commit, site: str) -> str:
    """The same download without Python."""
    token = '-H "Authorization: Bearer $COMMONS_TOKEN" ' if repo.is_private else ""
    address = f"{site.rstrip('/')}/{repo}/download.zip?revision={commit.sha}"
    return f'curl {token}-o {repo.name}.zip "{address}"\nunzip {repo.name}.zip -d {repo.name}'


def _head(site: str, imports: list[str], *, private: bool) -> str:
    """The imports, and the function `fetch(name, revision)`."""
    headers = "headers={'Authorization': 'Bearer ' + environ['COMMONS_TOKEN']}"
    lines = [
        "from io import BytesIO",
        *(["from os import environ"] if private else []),
        "from pathlib import Path",
        f"from urllib.request import {'Request, urlopen' if private else 'urlopen'}",
        "from zipfile import ZipFile",
        "",
        *imports,
        "",
        "",
        FETCH.format(
            site=site.rstrip("/"), request=f"Request(address, {headers})" if private else "address"
        ),
        "",
    ]
    return "\n".join(lines)


def _class(base: BaseModel | None, task_type: str) -> str:
    seq2seq = task_type == "SEQ_2_SEQ_LM" if base is None else base.is_encoder_decoder
    return "AutoModelForSeq2SeqLM" if seq2seq else "AutoModelForCausalLM"


def _base(base: BaseModel | None, name: str) -> str:
    if base is not None and base.source == base.SITE:
        return f"fetch({json.dumps(base.name)}, {json.dumps(base.revision)})"
    # The name stands in a stranger's file: as a literal it cannot be anything but a name.
    return json.dumps(f"path/to/{name or 'the-base-model'}")
