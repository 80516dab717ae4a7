"""transformers and peft with this site as their Hub: the whole way, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_site.accounts.models import User
from modules.models import LoraModule, Repo
from tests.modules.hub_api.conftest import Hub
from tests.modules.repos.test_snippets import real_module

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
# Where HF_ENDPOINT cannot be set for the whole process: the site for the adapter alone.
folder = HfApi(endpoint=os.environ["HF_ENDPOINT"]).snapshot_download("alice/real")
print(difference(local, logits({str(tmp_path / "base")!r}, folder)[1]))
raises(RepositoryNotFoundError, lambda: snapshot_download("google/flan-t5-large"))
""", OMP_NUM_THREADS="1")  # fmt: skip
    assert out.split() == ["0.0", "0.0", "0.0"]
    pushed = LoraModule.objects.get(repo__name="pushed")
    assert pushed.base_model is not None and Repo.objects.get(name="real").downloads == 1
