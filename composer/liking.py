"""Likes of recipes, as modules have them."""

from composer.models import Recipe, RecipeLike
from modules.community.likes import Likes

of_recipes = Likes(Recipe, RecipeLike, "recipe")
