"""What the library's API takes and answers: modules, versions and base models as JSON."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from django.utils.http import urlencode
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from hub_site.api import Given
from modules.checks.checking import checks_shown, sees_reasons
from modules.models import BaseModel, Commit, HubHome, LoraModule, Repo, Tag
from modules.on_hub import keeping
from modules.repos import gate
from modules.storage import local

OFFERED = [Repo.PUBLIC, Repo.PRIVATE]


class LoraModuleSerializer(serializers.ModelSerializer):
    name = serializers.CharField(source="repo.__str__", read_only=True)
    owner = serializers.CharField(source="repo.owner.name", read_only=True)
    visibility = serializers.CharField(source="repo.visibility", read_only=True)
    gated = serializers.CharField(
        source="repo.gated",
        read_only=True,
        help_text="How access is given: auto, manual, or empty where nobody needs to ask.",
    )
    downloads = serializers.IntegerField(source="repo.downloads", read_only=True)
    revision = serializers.CharField(source="commit.sha", read_only=True)
    base_model = serializers.CharField(source="base_model_name", read_only=True)
    is_composable = serializers.SerializerMethodField()
    rejected_reason = serializers.SerializerMethodField(help_text="Empty for all but its owner.")
    recipe_count = serializers.IntegerField(read_only=True)
    tags = serializers.ListField(source="tag_names", child=serializers.CharField(), read_only=True)
    target_modules = serializers.ListField(child=serializers.CharField(), read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = LoraModule
        fields = [
            "name", "owner", "url", "visibility", "gated", "status", "rejected_reason",
            "is_composable", "revision", "published_at", "summary", "base_model", "r", "lora_alpha",
            "use_rslora", "task_type", "target_modules", "parameters", "weights_size",
            "weights_sha256", "licence", "language", "tags", "downloads", "likes", "recipe_count",
        ]  # fmt: skip
        read_only_fields = fields

    def get_rejected_reason(self, module: LoraModule) -> str:
        shown = sees_reasons(module, self.context["request"].user)
        return module.rejected_reason if shown else ""

    def get_is_composable(self, module: LoraModule) -> bool:
        return module.is_composable

    def get_url(self, module: LoraModule) -> str:
        return self.context["request"].build_absolute_uri(module.get_absolute_url())


class CheckSerializer(serializers.Serializer):
    name = serializers.CharField()
    title = serializers.CharField()
    state = serializers.ChoiceField(["ok", "warning", "failed"])
    detail = serializers.CharField()
    figure = serializers.CharField(default="", help_text="The detail's main figure.")


class FileSerializer(serializers.Serializer):
    path = serializers.CharField()
    size = serializers.IntegerField()
    sha256 = serializers.CharField()
    url = serializers.URLField()


class OnHubSerializer(serializers.Serializer):
    """Where else its files are kept. What goes wrong there is its owner's to read."""

    place = serializers.ChoiceField(keeping.PLACES)
    state = serializers.ChoiceField([HubHome.WAITING, HubHome.KEPT, HubHome.TROUBLE])
    id = serializers.CharField(source="hub_id")
    sha = serializers.CharField()
    url = serializers.CharField()
    reason = serializers.CharField()


class LoraModulePageSerializer(LoraModuleSerializer):
    """One module with everything that its page shows."""

    has_access = serializers.SerializerMethodField(
        help_text="Whether its files are for you. POST to the page's address + /ask-access asks."
    )
    checks = serializers.SerializerMethodField()
    files = serializers.SerializerMethodField()
    hub = serializers.SerializerMethodField()

    class Meta(LoraModuleSerializer.Meta):
        fields = [
            *LoraModuleSerializer.Meta.fields, "not_composable", "variant", "tensors_sha256",
            "has_access", "checks", "files", "hub",
        ]  # fmt: skip
        read_only_fields = fields

    def get_has_access(self, module: LoraModule) -> bool:
        return gate.may_read(module.repo, self.context["request"].user)

    @extend_schema_field(CheckSerializer(many=True))
    def get_checks(self, module: LoraModule) -> Any:
        lines = checks_shown(module, self.context["request"].user)
        return CheckSerializer(lines, many=True).data

    @extend_schema_field(OnHubSerializer(allow_null=True))
    def get_hub(self, module: LoraModule) -> Any:
        home = keeping.shown_to(module.repo, self.context["request"].user)
        return OnHubSerializer(home).data if home else None

    @extend_schema_field(FileSerializer(many=True))
    def get_files(self, module: LoraModule) -> list[dict[str, Any]]:
        request, rows = self.context["request"], []
        for file in module.commit.files.select_related("blob"):
            file.commit, file.commit.repo = module.commit, module.repo
            url = request.build_absolute_uri(local.url(file))
            blob = file.blob
            rows.append({"path": file.path, "size": blob.size, "sha256": blob.sha256, "url": url})
        return rows


class NewVersionSerializer(Given):
    """A version's files. What an earlier version holds and this one does not send, stays."""

    files = serializers.ListField(
        child=serializers.FileField(max_length=255),
        allow_empty=False,
        help_text="adapter_config.json and adapter_model.safetensors as PEFT writes them, and "
        "README.md; each part's filename says which it is. Or one zip of them.",
    )
    message = serializers.CharField(
        max_length=2000,
        required=False,
        allow_blank=True,
        default="",
        help_text="What this version is, or what changed in it. The first line is its title.",
    )


class NewModuleSerializer(NewVersionSerializer):
    name = serializers.CharField(max_length=96, help_text="The last part of its address.")
    visibility = serializers.ChoiceField(OFFERED, default=Repo.PUBLIC)
    place = serializers.ChoiceField(
        keeping.PLACES,
        required=False,
        help_text="Where its files are: here, in a repo of the site's organisation on the Hub, "
        "or in one of your own account there.",
    )


class UploadedSerializer(LoraModulePageSerializer):
    left_out = serializers.ListField(
        child=serializers.CharField(),
        read_only=True,
        help_text="Files that came along and were not taken, because no module needs them.",
    )

    class Meta(LoraModulePageSerializer.Meta):
        fields = [*LoraModulePageSerializer.Meta.fields, "left_out"]
        read_only_fields = fields


class ModuleChangeSerializer(Given):
    """Only what is sent is changed."""

    name = serializers.CharField(
        max_length=96, help_text="A new name. The old address leads to the new one."
    )
    visibility = serializers.ChoiceField(OFFERED)
    place = serializers.ChoiceField(
        keeping.PLACES,
        help_text="Where its files are: here, in a repo of the site's organisation on the Hub, "
        "or in one of your own account there.",
    )
    gated = serializers.ChoiceField(
        [Repo.AUTO, Repo.MANUAL],
        allow_blank=True,
        help_text="Whoever wants its files must ask: auto lets them in at once, manual when you "
        "say so. Empty: nobody needs to ask.",
    )
    description = serializers.CharField(max_length=300, allow_blank=True, help_text="In one line.")
    tags = serializers.ListField(child=serializers.CharField(max_length=60))
    task = serializers.CharField(max_length=60, allow_blank=True)
    licence = serializers.CharField(
        max_length=60, allow_blank=True, help_text="An SPDX identifier."
    )
    language = serializers.CharField(
        max_length=40, allow_blank=True, help_text="Codes with commas between them: en, de."
    )
    card = serializers.CharField(
        max_length=200_000,
        allow_blank=True,
        trim_whitespace=False,
        help_text="README.md without its front matter.",
    )


class VersionSerializer(serializers.ModelSerializer):
    revision = serializers.CharField(source="sha", read_only=True)
    author = serializers.SerializerMethodField()
    url = serializers.SerializerMethodField()
    download_url = serializers.SerializerMethodField()

    class Meta:
        model = Commit
        fields = ["revision", "title", "message", "author", "created_at", "url", "download_url"]
        read_only_fields = fields

    def get_author(self, commit: Commit) -> str | None:
        """None for what the site's operator brought, and for whoever has left."""
        return commit.author.username if commit.author else None

    def get_url(self, commit: Commit) -> str:
        return self._address("modules:repo", commit)

    def get_download_url(self, commit: Commit) -> str:
        return self._address("modules:archive", commit)

    def _address(self, name: str, commit: Commit) -> str:
        repo: Repo = self.context["repo"]
        path = reverse(name, args=[repo.owner.name, repo.name])
        found: str = self.context["request"].build_absolute_uri(path)
        return f"{found}?{urlencode({'revision': commit.sha})}"


class LikeSerializer(serializers.Serializer):
    liked = serializers.BooleanField()
    likes = serializers.IntegerField()


class TagSerializer(serializers.ModelSerializer):
    class Meta:
        model = Tag
        fields = ["name", "uses"]
        read_only_fields = fields


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
