"""What a README.md says, and how facts are added to it without harm."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modules import cards
from modules.cards import Facts

AUTHORS = """---
# my own notes stay
license: mit   # chosen with care
language: [en, fr]
tags:
  - lora
  - "base_model:adapter:t5"
widget:
  - text: |
      a --- b

      tags: no key of mine
---

# opposites

![a picture](x.png)

Answers with the opposite.

```python
# Training data
```

## Limitations

<!-- say what it cannot -->
"""
PEFTS = """---
base_model: google/t5
library_name: peft
tags:
- lora
- transformers
---

# Model Card for Model ID

<!-- Provide a quick summary of what the model is/does. -->



## Model Details

- **Developed by:** [More Information Needed]

### Out-of-Scope Use

<!-- This section addresses misuse. -->

[More Information Needed]

### Recommendations

Users should be made aware of the risks.

### Training Data

[More Information Needed]
"""
ALL = Facts(
    name="opposites",
    description="Says the opposite.\n\nIn English.",
    licence="apache-2.0",
    language="en, fr",
    tags=("words", "opposites"),
    task="antonyms",
    training_data="Eighty pairs of words.",
    not_for="Legal advice.",
    base_model="google/t5",
)


def read(text: str) -> cards.Card:
    return cards.read(text.encode())


def said(text: str) -> dict[str, Any]:
    head, _ = cards.split(text)
    return yaml.safe_load(head or "") or {}


def test_it_reads_what_the_front_matter_and_the_sections_say() -> None:
    card = read(
        "---\nlicense: Apache-2.0\nlanguage: no\npipeline_tag: translation\ndatasets: [squad]\n"
        "base_model: a/b\n---\n# One\n\nFirst words.\n\n## Out-of-Scope Use\n\nLaw.\n"
    )
    assert (card.licence, card.language, card.task) == ("apache-2.0", "no", "translation")
    assert (card.training_data, card.not_for) == ("squad", "Law.")
    assert (card.base_model, card.title, card.summary) == ("a/b", "One", "First words.")


def test_an_empty_card_becomes_a_whole_one() -> None:
    text = cards.with_facts("", ALL)
    card = read(text)
    assert cards.missing(card) == set()
    assert card.summary == "Says the opposite."
    assert (card.licence, card.language, card.task) == ("apache-2.0", "en, fr", "antonyms")
    assert card.tags == ("words", "opposites")
    assert (card.training_data, card.not_for) == ("Eighty pairs of words.", "Legal advice.")
    assert said(text)["language"] == ["en", "fr"]
    assert text.startswith("---\n") and "\n# opposites\n" in text


def test_what_an_author_wrote_stays_to_the_byte_and_wins() -> None:
    text = cards.with_facts(AUTHORS, ALL)
    kept = [line for line in AUTHORS.splitlines() if line not in ("  - lora",)]
    lines = text.splitlines()
    for line in kept:
        if "base_model:adapter" not in line:
            assert line in lines
    assert said(text)["license"] == "mit"
    assert said(text)["widget"] == said(AUTHORS)["widget"]
    assert said(text)["tags"] == ["lora", "base_model:adapter:t5", "words", "opposites"]
    assert "Says the opposite." not in text
    assert read(text).not_for == "Legal advice."
    assert read(text).training_data == "Eighty pairs of words."
    assert text.index("## Limitations") < text.index("Legal advice.")


def test_a_card_that_peft_wrote_is_filled_in_where_it_has_gaps() -> None:
    assert "description" in cards.missing(read(PEFTS))
    assert cards.missing(read(PEFTS)) >= {"tags", "licence", "training_data", "not_for"}
    text = cards.with_facts(PEFTS, ALL)
    card = read(text)
    assert card.summary == "Says the opposite."
    assert (card.not_for, card.training_data) == ("Legal advice.", "Eighty pairs of words.")
    assert "Developed by:** [More Information Needed]" in text
    assert said(text)["base_model"] == "google/t5"


def test_facts_added_twice_change_nothing_the_second_time() -> None:
    for text in ("", AUTHORS, PEFTS, "Just words.\n"):
        once = cards.with_facts(text, ALL)
        assert cards.with_facts(once, ALL) == once


def test_no_facts_change_nothing() -> None:
    for text in ("", AUTHORS, PEFTS, "Just words.", "---\nlicense: mit\n---\n\r\nOdd\r\n"):
        assert cards.with_facts(text, Facts()) == text


def test_a_card_with_windows_lines_keeps_them() -> None:
    text = "---\r\nlicense: mit\r\n---\r\n# One\r\n\r\nWords.\r\n"
    made = cards.with_facts(text, ALL)
    assert "\n" not in made.replace("\r\n", "")
    assert made.startswith("---\r\nlicense: mit\r\n")
    assert read(made).training_data == "Eighty pairs of words."


def test_an_owner_changes_a_key_and_nothing_else() -> None:
    text = cards.with_changes(AUTHORS, {"license": "cc0-1.0", "tags": ["new"], "language": None})
    assert said(text) == {"license": "cc0-1.0", "tags": ["new"], "widget": said(AUTHORS)["widget"]}
    assert "# my own notes stay" in text
    assert cards.split(text)[1] == cards.split(AUTHORS)[1]


def test_an_unchanged_body_keeps_its_bytes_though_a_browser_sends_other_line_ends() -> None:
    body = cards.split(AUTHORS)[1]
    assert cards.with_changes(AUTHORS, {}, body.replace("\n", "\r\n")) == AUTHORS
    assert cards.with_changes(AUTHORS, {}, "New words.\r\n").endswith("---\nNew words.\n")


def test_front_matter_that_lines_cannot_mend_is_written_anew() -> None:
    text = '---\n{"license": "mit", "x": 1}\n---\nWords.\n'
    assert said(cards.with_changes(text, {"license": "cc0-1.0"})) == {"license": "cc0-1.0", "x": 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"---\nlicense: [mit\n---\n", "line 3"),
        (b"---\n- a\n- b\n---\n", "keys with values"),
        (b"caf\xe9", "not UTF-8"),
        (b"x" * 900_000, "most for a card"),
        (b'---\nlicense: mit\nsummary: "a\\0b"\n---\n', "line 3: a character that no text"),
        (b'---\n"\\ud83d": 1\n---\n', "a character that no text"),
    ],
)
def test_it_says_what_is_wrong_with_a_card(data: bytes, why: str) -> None:
    with pytest.raises(cards.BadCard, match=why) as caught:
        cards.check(data)
    assert "files" in caught.value.fields


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30).map(str.strip)


@given(
    st.dictionaries(st.sampled_from(["title", "model", "x-y"]), words, max_size=3),
    st.text(st.sampled_from("ab#-` \n[]<>*"), max_size=60),
    words,
)
def test_no_card_loses_a_key_or_a_line(keys: dict[str, str], body: str, fact: str) -> None:
    text = "---\n" + (yaml.safe_dump(keys, allow_unicode=True) if keys else "") + "---\n" + body
    made = cards.with_facts(text, Facts(licence="mit", language="en", not_for=fact))
    assert said(made) == keys | {"license": "mit", "language": "en"}
    lines = iter([line.rstrip() for line in cards.split(made)[1].splitlines()])
    assert all(line.rstrip() in lines for line in body.rstrip().splitlines())


# Nine lists of nine lists, and so on: as text, more than any memory holds.
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{each}: &{each} [{', '.join(['*' + chr(ord(each) - 1)] * 9)}]\n" for each in "bcdefghijklm"
)


def test_a_card_made_to_explode_is_read_as_one_that_says_nothing() -> None:
    card = read(f"---\n{BOMB}summary: *m\ntags: *m\nlanguage: *m\n---\nWords.\n")
    assert (card.summary, card.tags, card.language) == ("Words.", (), "")


@pytest.mark.parametrize("number", ["0x" + "f" * 4_000, ":".join(["1"] * 3_000)])
def test_a_number_that_could_not_be_written_again_is_refused(number: str) -> None:
    text = f"---\nx: {number}\n---\n"
    with pytest.raises(cards.BadCard, match="line 2: a number that is too large"):
        cards.check(text.encode())
    with pytest.raises(cards.BadCard):
        cards.with_front_matter(text, {"license": "mit"})


@pytest.mark.parametrize("sign", ["[", "![a](", "_", "<!--", "`", "\n \n\t", "```\n~~~\n"])
def test_a_paragraph_of_signs_alone_is_read_like_any_other(sign: str) -> None:
    """As many as a card holds. A pattern that looks for the end of each would take hours."""
    text = "x" + sign * (cards.LIMIT // len(sign))
    assert read(text).summary[:1] == "x"
