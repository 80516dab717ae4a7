"""The training script, run on a miniature: every file is there, loads, and is the same again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from composer.demo import library, skills, tokenizer, train


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    train.main(["--miniature", "--out", str(out), "--seed", "3", "--device", "cpu"])
    return out


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_it_writes_every_file_of_a_library(miniature: Path) -> None:
    base = {path.name for path in library.base_folder(miniature).iterdir()}
    assert base == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "README.md",
    }  # fmt: skip
    folders = library.module_folders(miniature)
    assert [folder.name for folder in folders] == sorted(
        library.repo_name(name) for name in train.MINIATURE.modules
    )
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "README.md",
        }  # fmt: skip


def test_it_pins_the_base_model_in_every_module(miniature: Path) -> None:
    revision = library.content_revision(library.base_folder(miniature))
    assert len(revision) == 40
    for folder in library.module_folders(miniature):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == library.BASE_REPO
        assert config["revision"] == revision
        assert config["target_modules"] == ["q", "v"]


def test_it_makes_the_same_bytes_from_the_same_seed(miniature: Path, tmp_path: Path) -> None:
    train.main(["--miniature", "--out", str(tmp_path), "--seed", "3", "--device", "cpu"])
    assert files(tmp_path) == files(miniature)


def test_it_makes_other_weights_from_another_seed(miniature: Path, tmp_path: Path) -> None:
    train.main(["--miniature", "--out", str(tmp_path), "--seed", "4", "--device", "cpu"])
    weights = "base/model.safetensors"
    assert files(tmp_path)[weights] != files(miniature)[weights]


def test_it_loads_in_transformers_and_peft_and_answers(miniature: Path) -> None:
    base = library.base_folder(miniature)
    coder = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSeq2SeqLM.from_pretrained(base).eval()
    assert model.dtype == torch.float32
    inputs = coder(["big dog", "france"], return_tensors="pt", padding=True)
    start = torch.zeros(2, 1, dtype=torch.long)
    before = model(**inputs, decoder_input_ids=start).logits
    folder = library.module_folders(miniature)[0]
    adapted = PeftModel.from_pretrained(model, str(folder)).eval()
    after = adapted(**inputs, decoder_input_ids=start).logits
    assert not torch.allclose(before, after, atol=1e-6)
    with adapted.disable_adapter():
        again = adapted(**inputs, decoder_input_ids=start).logits
    assert torch.allclose(again, before, atol=1e-6)
    assert len(coder.batch_decode(adapted.generate(**inputs, max_new_tokens=3))) == 2


def test_it_keeps_both_embedding_tables_apart(miniature: Path) -> None:
    from safetensors.torch import load_file

    base = library.base_folder(miniature)
    stored = load_file(base / "model.safetensors")
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    assert model.config.scale_decoder_outputs is False
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"])
    assert torch.equal(model.shared.weight, stored["shared.weight"])
    assert not torch.equal(stored["shared.weight"], stored["lm_head.weight"])


@pytest.mark.parametrize(
    "text",
    [
        "the capital of france",
        "big -> small ; hot ->",
        "  two spaces,\n\ta tab and Capital Letters!",
        "naïve café, 日本語, 🙂, don't",
        "limón pêche 42 = 7 ?",
        "",
    ],
)
def test_it_brings_any_text_back(text: str) -> None:
    coder = tokenizer.build(skills.vocabulary())
    ids = coder.encode(text).ids
    assert coder.decode(ids, skip_special_tokens=True) == text


def test_it_reads_every_word_of_the_demo_as_one_token() -> None:
    coder = tokenizer.build(skills.vocabulary())
    assert coder.get_vocab_size() <= 4096
    words = skills.vocabulary()
    expected = 2 + ("x" not in words)  # a letter that is no word of the demo's takes two
    for word in words:
        assert len(coder.encode(f"x {word}", add_special_tokens=False).ids) == expected


def test_it_keeps_what_is_not_the_modules_own(miniature: Path) -> None:
    """With an untouched adapter the loss on the other answers is exactly zero."""
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer

    base = library.base_folder(miniature)
    coder = Tokenizer.from_file(str(base / "tokenizer.json"))
    model = get_peft_model(
        AutoModelForSeq2SeqLM.from_pretrained(base),
        LoraConfig(r=2, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM"),
    ).eval()
    line = skills.Line("now king", "queen", own=(False,))
    batch = train.encode([line], coder, torch.device("cpu"))
    end_only = train.module_loss(model, batch)
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels
    ).logits
    expected = -torch.log_softmax(logits[0, 1], dim=-1)[train.END_ID] / 2
    assert torch.allclose(end_only, expected, atol=1e-6)


def test_it_reads_the_library_without_torch() -> None:
    code = "import sys; import composer.demo.library; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
