"""How to cite a recipe: the paper whose method it is, and the recipe by its id."""

from composer.models import Recipe

PAPER = """@inproceedings{huang2024lorahub,
  title     = {LoraHub: Efficient Cross-Task Generalization via Dynamic LoRA Composition},
  author    = {Huang, Chengsong and Liu, Qian and Lin, Bill Yuchen and Pang, Tianyu and Du, Chao
               and Lin, Min},
  booktitle = {Conference on Language Modeling},
  year      = {2024},
  note      = {arXiv:2307.13269}
}"""


def bibtex(recipe: Recipe, url: str) -> str:
    author = recipe.published_by.username if recipe.published_by else "anonymous"
    when = recipe.published_at or recipe.created_at
    return f"""{PAPER}

@misc{{recipe-{recipe.digest[:10]},
  title        = {{{_plain(recipe.title)}}},
  author       = {{{_plain(author)}}},
  year         = {{{when.year}}},
  howpublished = {{\\url{{{url}}}}},
  note         = {{LoRA composition recipe, sha256 {recipe.digest}}}
}}"""


def _plain(text: str) -> str:
    """Signs that mean something to BibTeX or LaTeX, made harmless."""
    for sign in "\\{}":
        text = text.replace(sign, "")
    for sign in "#$%&_":
        text = text.replace(sign, "\\" + sign)
    return text.replace("~", " ").replace("^", " ").replace("\n", " ")
