"""Instruct models are asked in their own chat template, and nothing is asked twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from composer.engine import base_model, chat
from composer.engine import stack as stacks
from composer.engine.base_model import BaseModel
from composer.engine.batch import chat_of, encode, encode_prompts, end_of_turn, prompt_text
from composer.engine.config import SearchConfig
from composer.engine.errors import BadBaseModel, BadExamples
from composer.engine.evaluate import predict
from composer.engine.examples import Example, check
from composer.engine.objective import Objective
from composer.engine.prompt import Template, TokenCounter
from composer.engine.stack import Stack
from tests.engine import slow
from tests.engine.conftest import make_adapter
from tests.engine.families import CHAT, EXAMPLES, TEMPLATE_TEXT, make_model, make_tokenizer

TEMPLATE = Template(TEMPLATE_TEXT)
WEIGHTS = np.array([[0.8, -0.6], [1.2, 0.3]])
# Written for these tests in the manner of known models.
IN_THE_MANNER_OF = {
    "chatml": (
        "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>'"
        " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% endif %}"
    ),
    "llama 2": (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + "
        "m['content'].strip() + ' [/INST]' }}{% elif m['role'] == 'assistant' %}{{ ' ' + "
        "m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama 3": (
        "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- set date_string = "
        "strftime_now('%d %b %Y') %}\n{%- endif %}\n{{- '<|head|>system\n\nToday is ' + "
        "date_string + '<|eot|>' }}\n{%- for m in messages %}\n    {{- '<|head|>' + m['role'] + "
        "'\n\n' + m['content'] | trim + '<|eot|>' }}\n{%- endfor %}\n{%- if "
        "add_generation_prompt %}\n    {{- '<|head|>assistant\n\n' }}\n{%- endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model'"
        " %}{% else %}{% set role = m['role'] %}{% endif %}{{ '<turn>' + role + '\n' + "
        "m['content'] | trim + '<end>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<turn>model\n' }}{% endif %}"
    ),
    "qwen 3": (
        "{% for m in messages %}{{ '<s>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{{ '<think>\n\n</think>\n\n' }}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{{ '<end>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% if enable_thinking is defined "
        "and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    ),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = make_model("llama", tmp_path_factory.mktemp("chat"))
    make_tokenizer(folder, wrapping="<s> $A", chat=CHAT)
    return base_model.load(folder)


@pytest.fixture(scope="module")
def modules(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    root = tmp_path_factory.mktemp("adapters")
    targets = ["q_proj", "v_proj"]
    return stacks.load(
        [make_adapter(base, root / str(i), i, target_modules=targets) for i in range(2)], base
    )


@pytest.mark.parametrize("text", list(IN_THE_MANNER_OF.values()), ids=list(IN_THE_MANNER_OF))
def test_a_prompt_is_rendered_as_transformers_renders_it(base: BaseModel, text: str) -> None:
    tokenizer = base.tokenizer
    question = {"role": "user", "content": '  Is {it} "hot" – or <b>cold</b>?\n'}
    expected = tokenizer.apply_chat_template(
        [question], chat_template=text, tokenize=False, add_generation_prompt=True,
        enable_thinking=False, date_string="26 Jul 2024",
    )  # fmt: skip
    made = chat.Chat(text, {"bos_token": "<s>", "eos_token": "</s>"})
    assert made.ask(question["content"]) == expected
    lead, end = made.around_answer()
    whole = tokenizer.apply_chat_template(
        [question, {"role": "assistant", "content": "cold"}], chat_template=text, tokenize=False,
        enable_thinking=False, date_string="26 Jul 2024",
    )  # fmt: skip
    assert expected + lead + "cold" + end == whole


def test_a_template_that_asks_for_the_date_is_told_the_same_day_every_day() -> None:
    made = chat.Chat("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}")
    assert made.ask("big") == "26 Jul 2024 big"


def test_an_instruct_model_reads_the_chat_template_and_no_second_beginning(
    base: BaseModel,
) -> None:
    asked = "<s><turn> user the opposite of big is : <end> <turn> assistant"
    assert prompt_text("big", TEMPLATE, base.tokenizer, is_encoder_decoder=False) == asked
    ids, _ = encode_prompts(["big"], TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    assert base.tokenizer.convert_ids_to_tokens(ids[0].tolist()) == [
        "<s>", "<turn>", "user", "the", "opposite", "of", "big", "is", ":", "<end>", "<turn>",
        "assistant",
    ]  # fmt: skip


def test_an_answer_ends_as_the_assistants_turn_ends(base: BaseModel) -> None:
    batch = encode(EXAMPLES[:1], TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    assert base.tokenizer.convert_ids_to_tokens(batch.labels[0, -2:].tolist()) == ["small", "<end>"]
    assert batch.answer_tokens.tolist() == [2]
    plain = encode(
        EXAMPLES[:1], Template(TEMPLATE_TEXT, chat=False), base.tokenizer, is_encoder_decoder=False
    )
    assert base.tokenizer.convert_ids_to_tokens(plain.labels[0, -2:].tolist()) == ["small", "</s>"]
    assert plain.input_ids.shape[1] < batch.input_ids.shape[1]


def test_its_losses_are_those_of_the_whole_chat(base: BaseModel, modules: Stack) -> None:
    batch = encode(EXAMPLES, TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    found = Objective(base, modules, batch, SearchConfig()).answer_losses(WEIGHTS)
    tokenizer = base.tokenizer
    for losses, weights in zip(found, WEIGHTS, strict=True):
        with slow.merged(base, weights.tolist(), modules, "sum"):
            for example, loss in zip(EXAMPLES, losses, strict=True):
                turns = [
                    {"role": "user", "content": TEMPLATE.render(example.input)},
                    {"role": "assistant", "content": example.target},
                ]
                whole = tokenizer.apply_chat_template(turns, return_dict=False)
                start = len(
                    tokenizer.apply_chat_template(
                        turns[:1], add_generation_prompt=True, return_dict=False
                    )
                )
                with torch.no_grad():
                    logits = base.model(input_ids=torch.tensor([whole])).logits[0].double()
                logp = torch.log_softmax(logits, dim=-1)
                expected = -sum(float(logp[t - 1, whole[t]]) for t in range(start, len(whole)))
                assert loss == pytest.approx(expected, abs=1e-5)


def test_writing_stops_at_the_end_of_the_turn(base: BaseModel, modules: Stack) -> None:
    inputs = [example.input for example in EXAMPLES]
    found = predict(base, modules, WEIGHTS[0], inputs, TEMPLATE, max_new_tokens=12)
    stops = {
        base.tokenizer.eos_token_id,
        end_of_turn(base.tokenizer, chat.of_tokenizer(base.tokenizer)),
    }
    assert stops == {1, 5}
    with slow.merged(base, WEIGHTS[0].tolist(), modules, "sum"):
        for text, answer in zip(inputs, found, strict=True):
            ids = encode_prompts([text], TEMPLATE, base.tokenizer, is_encoder_decoder=False)[0]
            ids, start = ids[0].tolist(), ids.shape[1]
            while len(ids) < start + 12 and ids[-1] not in stops:
                with torch.no_grad():
                    ids.append(
                        int(base.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
                    )
            assert answer == base.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_the_site_counts_the_tokens_that_the_engine_reads(base: BaseModel) -> None:
    counter = TokenCounter(base.folder / "tokenizer.json", chat.of_folder(base.folder))
    ids, _ = encode_prompts(["big"], TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    assert counter.count_prompt(TEMPLATE.render("big")) == ids.shape[1] == 12
    with pytest.raises(
        BadExamples, match="12 tokens, with the template; the model reads at most 9"
    ):
        check([Example("big", "small")], (), counter, 9, TEMPLATE)
    plain = TokenCounter(base.folder / "tokenizer.json")
    check([Example("big", "small")], (), plain, 9, TEMPLATE)


def test_its_hash_is_the_one_of_its_text(base: BaseModel, t5: BaseModel) -> None:
    made = chat.chat_template_hash(base.tokenizer)
    assert made == chat.Chat(CHAT).hash
    assert chat.chat_template_hash(t5.tokenizer) is None
    found = chat_of(TEMPLATE, base.tokenizer, is_encoder_decoder=False)
    assert found is not None and found.hash == made
    off = Template(TEMPLATE_TEXT, chat=False)
    assert chat_of(off, base.tokenizer, is_encoder_decoder=False) is None
    assert chat_of(TEMPLATE, base.tokenizer, is_encoder_decoder=True) is None


def test_of_several_templates_the_default_is_taken(base: BaseModel, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(
        '{"bos_token": {"content": "<s>"}, "chat_template": ['
        '{"name": "tool_use", "template": "no"}, {"name": "default", '
        '"template": "{{ bos_token }} {{ messages[0].content }}"}]}'
    )
    found = chat.of_folder(tmp_path)
    assert found is not None and found.ask("big") == "<s> big"


def test_it_says_when_there_is_no_template_to_ask_in(t5: BaseModel, gpt2: BaseModel) -> None:
    asked = Template(TEMPLATE_TEXT, chat=True)
    with pytest.raises(BadExamples, match="tokenizer has none"):
        encode(EXAMPLES, asked, gpt2.tokenizer, is_encoder_decoder=False)
    with pytest.raises(BadExamples, match="Encoder-decoder models have no chats"):
        encode(EXAMPLES, asked, t5.tokenizer, is_encoder_decoder=True)


@pytest.mark.parametrize(
    "text",
    [
        "{% for %}",
        "{{ raise_exception('only in Latin') }}",
        "{{ messages.x.y }}",
        "{{ 1 / 0 }}",
        "{% for each in range(10 ** 9) %}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",  # the sandbox does not let it out
    ],
)
def test_a_template_that_cannot_be_rendered_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(BadBaseModel, match="chat template cannot be rendered"):
        chat.Chat(text).ask("big")
