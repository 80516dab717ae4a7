"""The training script, run on a miniature: every file is there, loads, and is the same again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from composer.demo import library, plans, skills, tokenizer, train
from composer.demo.families import FAMILIES, IGNORED
from composer.demo.library import LLAMA, T5, DemoBase
from composer.engine import base_model, batch
from composer.engine.examples import Example
from composer.engine.prompt import Template

AUTO = {"t5": AutoModelForSeq2SeqLM, "llama": AutoModelForCausalLM}
CPU = torch.device("cpu")

each_base = pytest.mark.parametrize("of", library.BASES.values(), ids=library.BASES)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    train.main(["--miniature", "--out", str(out), "--seed", "3", "--device", "cpu"])
    return out


def files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def some_lines() -> list[skills.Line]:
    generator = skills.Generator(skills.generator("some lines", 0))
    makers = (generator.instructed, generator.bare, generator.few_shot)
    return [make() for make in makers for _ in range(40)]


@each_base
def test_it_writes_every_file_of_a_library(miniature: Path, of: DemoBase) -> None:
    assert {path.name for path in of.folder(miniature).iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "README.md",
    }  # fmt: skip
    folders = of.module_folders(miniature)
    assert [folder.name for folder in folders] == sorted(
        of.repo_name(name) for name in plans.MINIATURE[of.family].modules
    )
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {
            "adapter_config.json", "adapter_model.safetensors", "README.md",
        }  # fmt: skip


@each_base
def test_it_pins_the_base_model_in_every_module(miniature: Path, of: DemoBase) -> None:
    revision = library.content_revision(of.folder(miniature))
    assert len(revision) == 40
    for folder in of.module_folders(miniature):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == of.repo
        assert config["revision"] == revision
        assert config["target_modules"] == list(FAMILIES[of.family].target_modules)
        assert config["task_type"] == FAMILIES[of.family].task_type


def test_it_makes_the_same_bytes_from_the_same_seed(miniature: Path, tmp_path: Path) -> None:
    train.main(["--miniature", "--out", str(tmp_path), "--seed", "3", "--device", "cpu"])
    assert files(tmp_path) == files(miniature)


def test_it_makes_other_weights_from_another_seed(miniature: Path, tmp_path: Path) -> None:
    train.main(["--miniature", "--out", str(tmp_path), "--seed", "4", "--device", "cpu"])
    for of in library.BASES.values():
        weights = of.folder(Path()) / "model.safetensors"
        assert files(tmp_path)[str(weights)] != files(miniature)[str(weights)]


def test_it_makes_one_family_alone_when_asked(miniature: Path, tmp_path: Path) -> None:
    arguments = ["--family", "llama", "--miniature", "--seed", "3", "--device", "cpu"]
    train.main([*arguments, "--out", str(tmp_path)])
    assert library.bases_in(tmp_path) == [LLAMA]
    assert library.bases_in(miniature) == [T5, LLAMA]
    assert files(tmp_path / "llama") == files(miniature / "llama")


@each_base
def test_it_loads_in_transformers_and_peft_and_answers(miniature: Path, of: DemoBase) -> None:
    coder = AutoTokenizer.from_pretrained(of.folder(miniature))
    model = AUTO[of.family].from_pretrained(of.folder(miniature)).eval()
    assert model.dtype == torch.float32
    inputs = coder(["big dog", "france"], return_tensors="pt", padding=True)
    more: dict[str, Any] = {}
    if of == T5:
        more["decoder_input_ids"] = torch.zeros(2, 1, dtype=torch.long)
    before = model(**inputs, **more).logits
    folder = of.module_folders(miniature)[0]
    adapted = PeftModel.from_pretrained(model, str(folder)).eval()
    after = adapted(**inputs, **more).logits
    assert not torch.allclose(before, after, atol=1e-6)
    with adapted.disable_adapter():
        again = adapted(**inputs, **more).logits
    assert torch.allclose(again, before, atol=1e-6)
    assert len(coder.batch_decode(adapted.generate(**inputs, max_new_tokens=3))) == 2


@each_base
def test_it_keeps_both_embedding_tables_apart(miniature: Path, of: DemoBase) -> None:
    stored = load_file(of.folder(miniature) / "model.safetensors")
    model = AUTO[of.family].from_pretrained(of.folder(miniature))
    table = {"t5": "shared.weight", "llama": "model.embed_tokens.weight"}[of.family]
    assert getattr(model.config, "scale_decoder_outputs", False) is False
    assert torch.equal(model.lm_head.weight, stored["lm_head.weight"])
    assert torch.equal(model.get_input_embeddings().weight, stored[table])
    assert not torch.equal(stored[table], stored["lm_head.weight"])


def test_an_encoder_reads_the_end_and_a_decoder_only_prompt_has_none(miniature: Path) -> None:
    ends = [
        AutoTokenizer.from_pretrained(of.folder(miniature))("big dog").input_ids[-1] == 1
        for of in (T5, LLAMA)
    ]
    assert ends == [True, False]


@each_base
def test_it_trains_on_the_tokens_that_the_engine_reads(miniature: Path, of: DemoBase) -> None:
    """Prompt, answer, end: the same ids in the same places, and the same are to be predicted."""
    base = base_model.load(of.folder(miniature))
    coder = Tokenizer.from_file(str(of.folder(miniature) / "tokenizer.json"))
    lines = some_lines()
    trained = FAMILIES[of.family].encode(lines, coder, CPU)
    read = batch.encode(
        [Example(line.input, line.target) for line in lines],
        Template("{input}"),
        base.tokenizer,
        is_encoder_decoder=base.is_encoder_decoder,
        padding_side="right",
    )
    assert torch.equal(trained.attention_mask, read.attention_mask)
    shown = trained.attention_mask.bool()
    assert torch.equal(trained.input_ids[shown], read.input_ids[shown])
    if trained.places is None:
        assert torch.equal(trained.labels, read.labels)
        return
    predicted = torch.full_like(read.labels, IGNORED)
    for row, (places, labels) in enumerate(zip(trained.places, trained.labels, strict=True)):
        real = labels != IGNORED
        predicted[row, places[real] + 1] = labels[real]
    assert torch.equal(predicted, read.labels)


@each_base
def test_its_answers_logits_are_the_whole_models(miniature: Path, of: DemoBase) -> None:
    """Also for a line that is padded: a causal model must not see what stands right of it."""
    family = FAMILIES[of.family]
    model = AUTO[of.family].from_pretrained(of.folder(miniature)).eval()
    coder = Tokenizer.from_file(str(of.folder(miniature) / "tokenizer.json"))
    lines = [skills.Line("now king", "queen"), skills.Line("say big dog ->", "small puppy")]
    with torch.no_grad():
        together = family.answer_logits(model, family.encode(lines, coder, CPU))
        for row, line in enumerate(lines):
            alone = family.encode([line], coder, CPU)
            count = alone.labels.shape[1]
            if of == T5:
                expected = model(input_ids=alone.input_ids, labels=alone.labels).logits[0]
            else:
                expected = model(input_ids=alone.input_ids).logits[0, -count - 1 : -1]
            assert torch.allclose(together[row, :count], expected, atol=1e-5)


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


@each_base
def test_it_keeps_what_is_not_the_modules_own(miniature: Path, of: DemoBase) -> None:
    """With an untouched adapter the loss on the other answers is exactly zero."""
    family = FAMILIES[of.family]
    coder = Tokenizer.from_file(str(of.folder(miniature) / "tokenizer.json"))
    model = get_peft_model(
        family.read(of.folder(miniature)),
        LoraConfig(r=2, target_modules=list(family.target_modules), task_type=family.task_type),
    ).eval()
    line = skills.Line("now king", "queen", own=(False,))
    lines = family.encode([line], coder, CPU)
    end_only = train.module_loss(family, model, lines)
    logits = family.answer_logits(model.get_base_model(), lines)
    expected = -torch.log_softmax(logits[0, 1], dim=-1)[tokenizer.END_ID] / 2
    assert torch.allclose(end_only, expected, atol=1e-6)


def test_it_reads_the_library_without_torch() -> None:
    code = "import sys; import composer.demo.library; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
