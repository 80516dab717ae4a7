"""The `hf` commands that people type, each as a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.models import LoraModule, Ref, Repo
from tests.modules.hub_api.conftest import Hub
from tests.modules.hub_api.test_client import adapter_folder

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
HF = """
import subprocess
import huggingface_hub
is_new = tuple(map(int, huggingface_hub.__version__.split(".")[:2])) >= (1, 33)
repos = "repos" if is_new else "repo"
def hf(*words, fails=False):
    done = subprocess.run(["hf", *words], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, (words, done.stdout + done.stderr)
    return done.stdout + done.stderr
"""


def test_login_upload_download_and_tags(
    hub: Hub, token: str, base_model: Any, tmp_path: Path
) -> None:
    folder = adapter_folder(tmp_path)
    (folder / "notes.txt").write_text("first")
    out = hub(HF + f"""
hf("auth", "login", "--token", "lc_wrong", fails=True)
hf("auth", "login", "--token", {token!r})
print("alice" in hf("auth", "whoami"))
print("alice/module" in hf(repos, "create", "module", "--private"))
hf(repos, "create", "module", fails=True)
hf(repos, "create", "module", "--exist-ok")
hf("upload", "alice/module", {str(folder)!r}, ".", "--exclude", "notes.txt")
hf("upload", "alice/module", {str(folder / "notes.txt")!r}, "docs/notes.txt",
   "--commit-message", "Notes", "--commit-description", "By hand")
said = hf("download", "alice/module", "docs/notes.txt")
print(Path(said.split()[-1].removeprefix("path=")).read_text())
hf("download", "alice/module", "--local-dir", "all", "--exclude", "docs/*")
print(sorted(os.listdir("all")))
hf(repos, "tag", "create", "alice/module", "v1", "-m", "First")
hf("upload", "alice/module", {str(folder / "README.md")!r}, "docs/notes.txt")
hf("download", "alice/module", "docs/notes.txt", "--revision", "v1", "--local-dir", "old")
print(Path("old/docs/notes.txt").read_text(), "v1" in hf(repos, "tag", "list", "alice/module"))
hf(repos, "tag", "delete", "alice/module", "v1", "-y")
print("v1" in hf(repos, "tag", "list", "alice/module"))
for missing in (("alice/none",), ("alice/module", "none"), ("alice/module", "--revision", "none")):
    print("not found" in hf("download", *missing, fails=True).lower())
hf("auth", "logout")
hf("auth", "whoami", fails=is_new)
hf("download", "alice/module", fails=True)
""", token="").splitlines()  # fmt: skip
    files = "['.cache', 'README.md', 'adapter_config.json', 'adapter_model.safetensors']"
    assert out == ["True", "True", "first", files, "first True", "False", *["True"] * 3]
    assert Repo.objects.get(name="module").is_private
    assert not Ref.objects.filter(kind=Ref.TAG).exists()


def test_repos_are_kept_in_order(hub: Hub, opposites: LoraModule) -> None:
    """Branches, settings, moving, deleting: commands that came after 0.34."""
    out = hub(HF + """
name = "alice/opposites"
hf(repos, "branch", "create", name, "feat/x")
Path("x.txt").write_text("on the branch")
hf("upload", name, "x.txt", "x.txt", "--revision", "feat/x")
hf("download", name, "x.txt", "--revision", "feat/x", "--local-dir", ".")
hf("download", name, "x.txt", fails=True)
hf(repos, "branch", "delete", name, "feat/x")
hf("download", name, "x.txt", "--revision", "feat/x", fails=True)
hf(repos, "settings", name, "--private")
print(api.model_info(name).private)
hf(repos, "settings", name, "--public" if is_new else "--no-private")
print(api.model_info(name).private)
print(name in hf("models", "ls", "--author", "alice", *(["--no-truncate"] if is_new else [])))
print("peft" in hf("models", "info", name))
hf("upload", name, "x.txt", "dir/x.txt")
hf(*((repos, "delete-files") if is_new else ("repo-files", "delete")), name, "dir/*")
print("dir/x.txt" in api.list_repo_files(name))
hf(repos, "move", name, "alice/moved")
hf(repos, "delete", "alice/moved", *(["-y"] if is_new else []))
print(api.repo_exists("alice/moved"))
hf(repos, "delete", "alice/moved", *(["-y"] if is_new else []), fails=True)
print("not found" in hf(repos, "branch", "create", "alice/none", "x", fails=True).lower())
print("does not offer" in hf("upload", name, "x.txt", "--create-pr", fails=True))
""").splitlines()  # fmt: skip
    assert out == ["True", "False", "True", "True", "False", "False", "True", "True"]


def test_newer_commands_look_into_a_module(hub: Hub, opposites: LoraModule) -> None:
    out = hub(HF + """
print("adapter_model.safetensors" in hf("models", "ls", "alice/opposites"))
print("Answers with the opposite" in hf("models", "card", "alice/opposites"))
Path("x.txt").write_text("copied")
hf("cp", "x.txt", "hf://alice/opposites/docs/x.txt")
hf("cp", "hf://alice/opposites/docs/x.txt", "y.txt")
print(Path("y.txt").read_text())
print("does not offer" in hf("repos", "ls", fails=True))
print("does not offer" in hf("discussions", "list", "alice/opposites", fails=True))
""").splitlines()  # fmt: skip
    assert out == ["True", "True", "copied", "True", "True"]
