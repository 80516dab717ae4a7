"""What the library's API takes and answers: modules, versions and base models as JSON."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from modules.models import BaseModel, LoraModule
from modules.storage import local


class LoraModuleSerializer(serializers.ModelSerializer):
    name = serializers.CharField(source="repo.__str__", read_only=True)
    owner = serializers.CharField(source="repo.owner.name", read_only=True)
    visibility = serializers.CharField(source="repo.visibility", read_only=True)
    downloads = serializers.IntegerField(source="repo.downloads", read_only=True)
    revision = serializers.CharField(source="commit.sha", read_only=True)
    base_model = serializers.CharField(source="base_model_name", read_only=True)
    is_composable = serializers.SerializerMethodField()
    recipe_count = serializers.IntegerField(read_only=True)
    tags = serializers.SlugRelatedField("name", many=True, read_only=True)
    target_modules = serializers.ListField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = LoraModule
        fields = [
            "name", "owner", "url", "visibility", "status", "rejected_reason", "is_composable",
            "revision", "published_at", "summary", "base_model", "r", "lora_alpha", "use_rslora",
            "task_type", "target_modules", "parameters", "weights_size", "weights_sha256",
            "licence", "language", "tags", "downloads", "recipe_count",
        ]  # fmt: skip
        read_only_fields = fields

    def get_is_composable(self, module: LoraModule) -> bool:
        return module.is_composable

    def get_url(self, module: LoraModule) -> str:
        return self.context["request"].build_absolute_uri(module.get_absolute_url())


class CheckSerializer(serializers.Serializer):
    name = serializers.CharField()
    title = serializers.CharField()
    state = serializers.ChoiceField(["ok", "warning", "failed"])
    detail = serializers.CharField()


class FileSerializer(serializers.Serializer):
    path = serializers.CharField()
    size = serializers.IntegerField()
    sha256 = serializers.CharField()
    url = serializers.URLField()


class LoraModulePageSerializer(LoraModuleSerializer):
    """One module with everything that its page shows."""

    checks = CheckSerializer(many=True, read_only=True)
    files = serializers.SerializerMethodField()

    class Meta(LoraModuleSerializer.Meta):
        fields = [*LoraModuleSerializer.Meta.fields, "checks", "files"]
        read_only_fields = fields

    @extend_schema_field(FileSerializer(many=True))
    def get_files(self, module: LoraModule) -> list[dict[str, Any]]:
        request, rows = self.context["request"], []
        for file in module.commit.files.select_related("blob"):
            file.commit, file.commit.repo = module.commit, module.repo
            url = request.build_absolute_uri(local.url(file))
            blob = file.blob
            rows.append({"path": file.path, "size": blob.size, "sha256": blob.sha256, "url": url})
        return rows


class BaseModelSerializer(serializers.ModelSerializer):
    aliases = serializers.ListField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = BaseModel
        fields = [
            "name", "revision", "source", "aliases", "summary", "parameters", "is_encoder_decoder",
            "max_tokens", "url",
        ]  # fmt: skip
        read_only_fields = fields

    def get_url(self, base_model: BaseModel) -> str:
        return self.context["request"].build_absolute_uri(base_model.get_absolute_url())
