"""The lines to copy, run as they are shown, with the real libraries against the real site."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from hub_site.accounts import tokens
from hub_site.accounts.models import User
from modules import services
from modules.bases import base_models
from modules.models import BaseModel, LoraModule, Repo
from modules.repos import snippets
from modules.storage import local
from tests.modules.conftest import Publisher

SITE = "https://commons.example"
# Saves what the site held as expected.safetensors, and compares it with what a snippet loaded.
PROBE = """
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
import torch

kept = load_file("expected.safetensors")
loaded = get_peft_model_state_dict(model{adapter_name})
def plain(name):
    return name.removeprefix("base_model.model.")
kept = {{plain(name): value for name, value in kept.items()}}
loaded = {{plain(name): value for name, value in loaded.items()}}
assert kept.keys() == loaded.keys() and len(kept) > 0, (kept.keys(), loaded.keys())
assert all(torch.equal(kept[name], loaded[name]) for name in kept)
print("LOADED", len(kept))
"""
MAKE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
torch.manual_seed(0)
tokenizer = Tokenizer(models.WordLevel(
    {"<pad>": 0, "</s>": 1, "<unk>": 2, "your": 3, "input": 4, "here": 5}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>",
    unk_token="<unk>").save_pretrained("base")
model = T5ForConditionalGeneration(T5Config(vocab_size=6, d_model=8, d_kv=4, d_ff=8, num_layers=1,
    num_decoder_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0))
model.save_pretrained("base")
tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q", "v"],
    task_type="SEQ_2_SEQ_LM", init_lora_weights=False, use_dora="dora" in sys.argv))
tuned.peft_config["default"].base_model_name_or_path = "lora-commons/real-t5"
tuned.save_pretrained("module")
"""


def real_module(owner: User, name: str, folder: Path) -> LoraModule:
    """A tiny T5 and a LoRA (or DoRA) on it, saved by their own libraries."""
    run_python(MAKE, folder, name)
    base_models.keep_base_model(
        repo=base_models.repo_of(base_models.organisation("lora-commons"), "real-t5", Repo.BASE),
        folder=folder / "base",
    )
    repo = services.create_repo(owner=owner.namespace, name=name, kind=Repo.LORA)
    base_models.mirror(repo, folder / "module", "First", check_now=True)
    module = LoraModule.objects.get(repo=repo)
    assert module.status == LoraModule.READY, module.rejected_reason
    return module


def run(command: list[str], folder: Path, **environment: str) -> str:
    quiet = {"OMP_NUM_THREADS": "1", "HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet["HF_HUB_OFFLINE"] = "0"  # the site is all that is asked
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | quiet | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_python(code: str, folder: Path, *arguments: str, **environment: str) -> str:
    script = folder / "script.py"
    script.write_text(code)
    return run([sys.executable, script.name, *arguments], folder, **environment)


def users_folder(tmp_path: Path, module: LoraModule) -> Path:
    folder = tmp_path / f"a user's folder, {module.repo.name}"
    folder.mkdir(exist_ok=True)
    weights = local.local_path(module.weights_sha256)
    (folder / "expected.safetensors").write_bytes(weights.read_bytes())
    return folder


def shown(client: Client, path: str, server: Any = None) -> dict[str, str]:
    """The page's snippets by their keys, each of which stands on the page as it is."""
    headers = {"Host": server.url.split("//")[1]} if server else {}
    page = client.get(path, headers=headers)
    text = page.content.decode().replace("&quot;", '"').replace("&#x27;", "'")
    found = {snippet.key: snippet.code for snippet in page.context["snippets"]}
    assert found and all(code in text for code in found.values())
    return found


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_the_python_runs_and_loads_the_module(
    live_server: Any, client: Client, alice: User, tmp_path: Path
) -> None:
    module = real_module(alice, "real", tmp_path)
    found = shown(client, "/alice/real", live_server)
    assert list(found) == ["peft", "transformers", "hf", "curl"]
    folder = users_folder(tmp_path, module)
    peft, plain = (
        PROBE.format(adapter_name=""),
        PROBE.format(adapter_name=', adapter_name="default"'),
    )
    assert "LOADED" in run_python(f"{found['peft']}\n{peft}", folder)
    assert "LOADED" in run_python(f"{found['transformers']}\n{plain}", folder)
    assert Repo.objects.get(pk=module.repo_id).downloads == 1  # one visitor of one day

    # The same module made private: now the snippets send the owner's token.
    Repo.objects.filter(pk=module.repo_id).update(visibility=Repo.PRIVATE)
    client.force_login(alice)
    token = tokens.create_token(alice, name="t", scope="read")[1]
    private = shown(client, "/alice/real", live_server)
    assert all("COMMONS_TOKEN" in code for code in private.values())
    assert "LOADED" in run_python(f"{private['peft']}\n{peft}", folder, COMMONS_TOKEN=token)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_composed_is_loaded_by_peft_all_the_same(
    live_server: Any, client: Client, alice: User, tmp_path: Path
) -> None:
    module = real_module(alice, "dora", tmp_path)
    assert "DoRA" in module.not_composable
    found = shown(client, "/alice/dora", live_server)
    assert list(found) == ["peft", "hf", "curl"]
    code = found["peft"] + "\n" + PROBE.format(adapter_name="")
    assert "LOADED" in run_python(code, users_folder(tmp_path, module))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("private", [False, True])
def test_the_hubs_own_client_downloads_the_files(
    live_server: Any,
    client: Client,
    alice: User,
    publish: Publisher,
    base_model: BaseModel,
    tmp_path: Path,
    private: bool,
) -> None:
    module = publish(alice, "opposites", private=private)
    client.force_login(alice)
    code = shown(client, "/alice/opposites", live_server)["hf"]
    token = tokens.create_token(alice, name="t", scope="read")[1]
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "COMMONS_TOKEN": token} if private else {"PATH": path}
    run(["sh", "-ec", code], folder, **own)
    weights = (folder / "opposites" / "adapter_model.safetensors").read_bytes()
    assert weights == local.local_path(module.weights_sha256).read_bytes()
    assert (folder / "opposites" / "adapter_config.json").is_file()


def test_a_snippet_never_asks_elsewhere_for_a_base_model(
    client: Client, alice: User, base_model: BaseModel, publish: Publisher
) -> None:
    publish(alice, "foreign", base_model_name_or_path="someone/else", task_type="CAUSAL_LM")
    found = shown(client, "/alice/foreign")
    assert 'base = "path/to/someone/else"' in found["peft"]
    assert "AutoModelForCausalLM" in found["peft"]
    assert "curl -o foreign.zip" in found["curl"] and "vllm" not in found


def test_a_name_cannot_break_out_of_a_snippet(
    client: Client, alice: User, publish: Publisher
) -> None:
    publish(alice, "evil", base_model_name_or_path='x"\nimport os\nos.abort()\n"')
    for key in ("peft", "transformers"):
        code = shown(client, "/alice/evil")[key]
        assert "\nimport os" not in code
        compile(code, "snippet", "exec")


@pytest.mark.parametrize(
    ("task_type", "model_class", "answers"),
    [
        ("SEQ_2_SEQ_LM", "AutoModelForSeq2SeqLM", True),
        ("CAUSAL_LM", "AutoModelForCausalLM", True),
        ("SEQ_CLS", "AutoModelForSequenceClassification", False),
        ("TOKEN_CLS", "AutoModelForTokenClassification", False),
    ],
)
def test_the_class_is_that_of_the_modules_task(
    alice: User, publish: Publisher, task_type: str, model_class: str, answers: bool
) -> None:
    module = publish(alice, "m", task_type=task_type, base_model_name_or_path="someone/else")
    found = {each.key: each.code for each in snippets.for_module(module, module.commit, SITE)}
    assert f"model = {model_class}.from_pretrained" in found["peft"]
    assert ("generate" in found["peft"]) == answers == ("transformers" in found)


def vllm(module: LoraModule) -> str | None:
    rows = snippets.for_module(module, module.commit, SITE)
    return next((row.code for row in rows if row.key == "vllm"), None)


@pytest.fixture
def decoder(opposites: LoraModule) -> LoraModule:
    """A module whose base model is a Llama, as far as its config says."""
    assert opposites.base_model is not None
    opposites.base_model.is_encoder_decoder = False
    opposites.base_model.config = {"architectures": ["LlamaForCausalLM"]}
    return opposites


@pytest.mark.parametrize(
    ("r", "needed"), [(1, 8), (8, 8), (9, 16), (64, 64), (129, 256), (257, 320), (321, 512)]
)
def test_vllm_is_told_the_rank_that_it_must_allow(decoder: LoraModule, r: int, needed: int) -> None:
    decoder.r = r
    code = vllm(decoder)
    assert code is not None
    serve = code.splitlines()[-1]
    assert serve == (
        f"vllm serve tiny-t5 --enable-lora --max-lora-rank {needed} "
        "--lora-modules opposites=opposites"
    )
    assert f"{SITE}/lora-commons/tiny-t5/download.zip" in code
    assert f"{SITE}/alice/opposites/download.zip" in code


def test_vllm_is_shown_only_for_what_it_serves(decoder: LoraModule) -> None:
    base = decoder.base_model
    assert base is not None and vllm(decoder)
    decoder.r = 513
    assert vllm(decoder) is None
    decoder.r, decoder.not_composable = 8, "uses DoRA"
    assert vllm(decoder) is None
    decoder.not_composable = ""
    for config in ({"architectures": ["GPT2LMHeadModel"]}, {"architectures": None}, {}):
        base.config = config
        assert vllm(decoder) is None
    base.config, base.is_encoder_decoder = {"architectures": ["LlamaForCausalLM"]}, True
    assert vllm(decoder) is None


def test_a_base_models_page_shows_how_to_load_it(client: Client, base_model: BaseModel) -> None:
    found = shown(client, "/lora-commons/tiny-t5")
    assert list(found) == ["transformers", "curl"]
    assert "PeftModel" not in found["transformers"] and "fetch(" in found["transformers"]
    compile(found["transformers"], "snippet", "exec")
