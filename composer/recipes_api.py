"""Published recipes for programs."""

from django.http import HttpResponseBase
from django.shortcuts import get_object_or_404
from django.urls import path, re_path, reverse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    extend_schema,
    extend_schema_view,
)
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response

from composer import recipe_import, verifications
from composer.downloads import adapter_zip
from composer.errors import NotAllowed
from composer.jobs_api import IDEMPOTENCY_KEY, key_of
from composer.liking import of_recipes
from composer.models import Recipe
from composer.serializers import (
    LikedRecipeSerializer,
    NewRecipeImportSerializer,
    NewVerificationSerializer,
    RecipeImportSerializer,
    RecipeSerializer,
    RecipeSummarySerializer,
    VerificationSerializer,
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
        recipe = get_object_or_404(recipes, pk=digest)
        recipe_import.named_by(recipe, request.user)
        return Response(RecipeSerializer(recipe).data)


@extend_schema_view(
    get=extend_schema(summary="The recipe's adapter: a PEFT folder as a zip", responses=ZIP)
)
class RecipeAdapter(generics.GenericAPIView):
    queryset = Recipe.objects.none()

    def get(self, request: Request, digest: str) -> HttpResponseBase:
        recipes = Recipe.objects.visible_to(request.user).filter(adapter__isnull=False)
        return adapter_zip(request, get_object_or_404(recipes, pk=digest))


@extend_schema_view(
    get=extend_schema(
        summary="How often a recipe was run again, and what came of it",
        responses=VerificationSerializer(many=True),
    ),
    post=extend_schema(
        summary="Verify a recipe: have a worker run it again",
        request=NewVerificationSerializer,
        responses={202: VerificationSerializer},
        parameters=[IDEMPOTENCY_KEY],
    ),
)
class Verifications(generics.GenericAPIView):
    serializer_class = VerificationSerializer
    queryset = Recipe.objects.none()
    counts_as = {"POST": "submit"}

    def get(self, request: Request, digest: str) -> Response:
        recipe = get_object_or_404(Recipe.objects.visible_to(request.user), pk=digest)
        rows = recipe.verifications.visible_to(request.user).for_rows()
        page = self.paginate_queryset(rows)
        return self.get_paginated_response(VerificationSerializer(page, many=True).data)

    def post(self, request: Request, digest: str) -> Response:
        recipe = get_object_or_404(Recipe.objects.visible_to(request.user), pk=digest)
        given = NewVerificationSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        row = verifications.submit_verification(
            recipe=recipe,
            user=request.user,
            kind=given.validated_data["kind"],
            idempotency_key=key_of(request),
        )
        place = reverse("api-recipe-verifications", args=[digest])
        return Response(VerificationSerializer(row).data, status=202, headers={"Location": place})


@extend_schema_view(
    post=extend_schema(
        summary="Bring a recipe from another site: yours alone, nothing in it believed",
        request=NewRecipeImportSerializer,
        responses={201: RecipeImportSerializer},
    )
)
class Imports(generics.GenericAPIView):
    serializer_class = NewRecipeImportSerializer
    queryset = Recipe.objects.none()
    counts_as = {"POST": "upload"}

    def post(self, request: Request) -> Response:
        given = NewRecipeImportSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        document = recipe_import.checked(given.validated_data["document"])
        title = given.validated_data["title"]
        found = recipe_import.bring(user=request.user, document=document, title=title)
        data = {
            "digest": found.recipe_id,
            "title": found.title,
            "missing": recipe_import.missing(found),
        }
        place = reverse("api-recipe", args=[found.recipe_id])
        answer = RecipeImportSerializer(data).data
        return Response(answer, status=201, headers={"Location": place})


@extend_schema_view(
    put=extend_schema(summary="Like a recipe", request=None, responses=LikedRecipeSerializer),
    delete=extend_schema(summary="Take a like back", responses={200: LikedRecipeSerializer}),
)
class RecipeLikes(generics.GenericAPIView):
    serializer_class = LikedRecipeSerializer
    queryset = Recipe.objects.none()

    def put(self, request: Request, digest: str) -> Response:
        return self._set(request, digest, True)

    def delete(self, request: Request, digest: str) -> Response:
        return self._set(request, digest, False)

    def _set(self, request: Request, digest: str, wanted: bool) -> Response:
        recipe = get_object_or_404(Recipe.objects.visible_to(request.user), pk=digest)
        if request.user.is_guest:
            raise NotAllowed("Sign up to like recipes.")
        of_recipes.set(recipe, request.user, wanted)
        return Response({"liked": wanted, "likes": recipe.likes})


urlpatterns = [
    path("recipes/", Recipes.as_view(), name="api-recipes"),
    path("recipes/import/", Imports.as_view(), name="api-recipe-import"),
    re_path(rf"^recipes/{DIGEST}/$", OneRecipe.as_view(), name="api-recipe"),
    re_path(
        rf"^recipes/{DIGEST}/verifications/$",
        Verifications.as_view(),
        name="api-recipe-verifications",
    ),
    re_path(rf"^recipes/{DIGEST}/like/$", RecipeLikes.as_view(), name="api-recipe-like"),
    re_path(
        rf"^recipes/{DIGEST}/adapter\.zip$", RecipeAdapter.as_view(), name="api-recipe-adapter"
    ),
]
