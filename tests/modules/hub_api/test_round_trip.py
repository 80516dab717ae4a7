"""transformers and peft with this site as their Hub: the whole way, to the last bit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from composer.demo.library import LLAMA, OWNER, T5
from hub_site.accounts.models import User
from modules.models import LoraModule, Repo
from tests.modules.hub_api.conftest import Hub
from tests.modules.repos.test_snippets import real_module

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

LOGITS = """
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
ids = torch.tensor([[2, 3, 4, 1]])
def logits(base, adapter):
    model = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), adapter)
    with torch.no_grad():
        return model, model.eval()(input_ids=ids, decoder_input_ids=ids).logits
def difference(a, b):
    return (a - b).abs().max().item()
"""


def test_models_load_by_name_and_go_up_again_unchanged(
    hub: Hub, alice: User, tmp_path: Path
) -> None:
    real_module(alice, "real", tmp_path)
    out = hub(LOGITS + f"""
_, local = logits({str(tmp_path / "base")!r}, {str(tmp_path / "module")!r})
model, here = logits("lora-commons/real-t5", "alice/real")
print(difference(local, here))
model.push_to_hub("alice/pushed")
_, again = logits("lora-commons/real-t5", "alice/pushed")
print(difference(local, again))
""")  # fmt: skip
    assert out.split() == ["0.0", "0.0"]
    pushed = LoraModule.objects.get(repo__name="pushed")
    assert pushed.base_model is not None and Repo.objects.get(name="real").downloads == 1


def test_the_documented_lines_take_a_module_from_here_and_its_base_from_elsewhere(
    hub: Hub, alice: User, live_server: Any, tmp_path: Path
) -> None:
    """Where HF_ENDPOINT is not set, because one process uses two hubs."""
    real_module(alice, "opposites", tmp_path)
    text = (ROOT / "docs" / "hub.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    elsewhere = str(tmp_path / "base")
    for shown, here in (
        ('"google/flan-t5-large"', repr(elsewhere)),
        ('"http://127.0.0.1:8000"', repr(live_server.url)),
    ):
        assert shown in code
        code = code.replace(shown, here)
    out = hub(
        LOGITS
        + code
        + f"""
with torch.no_grad():
    found = model.eval()(input_ids=ids, decoder_input_ids=ids).logits
print(difference(found, logits({elsewhere!r}, {str(tmp_path / "module")!r})[1]))
""",
        HF_ENDPOINT="https://hub.invalid",
        HF_TOKEN="hf_of_the_other_hub",
    )
    assert out.split() == ["0.0"]


def test_models_and_tokenizers_go_up_and_come_down(hub: Hub, alice: User, tmp_path: Path) -> None:
    """Whole ones are not modules, but files that their own libraries read by name."""
    real_module(alice, "real", tmp_path)
    out = hub(
        LOGITS
        + f"""
base = AutoModelForSeq2SeqLM.from_pretrained({str(tmp_path / "base")!r})
base.push_to_hub("alice/whole")
AutoTokenizer.from_pretrained({str(tmp_path / "base")!r}).push_to_hub("alice/whole", private=False)
again = AutoModelForSeq2SeqLM.from_pretrained("alice/whole")
with torch.no_grad():
    both = [m.eval()(input_ids=ids, decoder_input_ids=ids).logits for m in (base, again)]
print(difference(*both))
print(AutoTokenizer.from_pretrained("alice/whole")("your input here").input_ids)
print(sorted(api.list_repo_files("alice/whole")), api.model_info("alice/whole").library_name)
error = raises(OSError, lambda: AutoModelForSeq2SeqLM.from_pretrained("google/flan-t5-large"))
words = "not a valid model identifier" in str(error)
print(isinstance(error.__cause__, RepositoryNotFoundError), words)
"""
    ).splitlines()
    assert out[:2] == ["0.0", "[3, 4, 5]"]
    assert "model.safetensors" in out[2] and "tokenizer.json" in out[2] and "None" in out[2]
    assert out[3] == "True True"
    assert not LoraModule.objects.filter(repo__name="whole").exists()


def test_the_demo_needs_nothing_but_the_sites_address(hub: Hub) -> None:
    """Its base models, of both kinds, and their modules load by their names and answer."""
    call_command("load_demo", verbosity=0)
    out = hub(
        LOGITS
        + f"""
from transformers import AutoModelForCausalLM
autos = {{{T5.repo!r}: AutoModelForSeq2SeqLM, {LLAMA.repo!r}: AutoModelForCausalLM}}
listed = {{module.id: module.tags for module in list_models(author="lora-commons")}}
for base, name in {[(of.repo, f"{OWNER}/{of.repo_name('antonym')}") for of in (T5, LLAMA)]}:
    assert f"base_model:adapter:{{base}}" in listed[name]
    model = PeftModel.from_pretrained(autos[base].from_pretrained(base), name).eval()
    coder = AutoTokenizer.from_pretrained(base)
    tokens = coder("hot ->", return_tensors="pt")
    answer = model.generate(**tokens, max_new_tokens=8)
    print(coder.decode(answer[0], skip_special_tokens=True).removeprefix("hot ->"))
"""
    )
    assert out.split() == ["cold", "cold"]
