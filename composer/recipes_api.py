"""Published recipes for programs."""

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import path, re_path
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    extend_schema,
    extend_schema_view,
)
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response

from composer.downloads import adapter_zip
from composer.models import Recipe
from composer.serializers import (
    RecipeSerializer,
    RecipeSummarySerializer,
)

ZIP = {(200, "application/zip"): OpenApiTypes.BINARY}
DIGEST = r"(?P<digest>[0-9a-f]{64})"


@extend_schema_view(
    get=extend_schema(summary="Published recipes", responses=RecipeSummarySerializer(many=True))
)
class Recipes(generics.GenericAPIView):
    serializer_class = RecipeSummarySerializer
    queryset = Recipe.objects.none()

    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(Recipe.objects.published().for_cards())
        return self.get_paginated_response(RecipeSummarySerializer(page, many=True).data)


@extend_schema_view(get=extend_schema(summary="One recipe, with its evidence"))
class OneRecipe(generics.GenericAPIView):
    serializer_class = RecipeSerializer
    queryset = Recipe.objects.none()

    def get(self, request: Request, digest: str) -> Response:
        recipes = Recipe.objects.visible_to(request.user).for_cards()
        return Response(RecipeSerializer(get_object_or_404(recipes, pk=digest)).data)


@extend_schema_view(
    get=extend_schema(summary="The recipe's adapter: a PEFT folder as a zip", responses=ZIP)
)
class RecipeAdapter(generics.GenericAPIView):
    queryset = Recipe.objects.none()

    def get(self, request: Request, digest: str) -> HttpResponseBase:
        recipes = Recipe.objects.visible_to(request.user).filter(adapter__isnull=False)
        return adapter_zip(request, get_object_or_404(recipes, pk=digest))


urlpatterns = [
    path("recipes/", Recipes.as_view(), name="api-recipes"),
    re_path(rf"^recipes/{DIGEST}/$", OneRecipe.as_view(), name="api-recipe"),
    re_path(
        rf"^recipes/{DIGEST}/adapter\.zip$", RecipeAdapter.as_view(), name="api-recipe-adapter"
    ),
]
