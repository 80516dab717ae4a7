"""How the Hub shows files: small texts by git's id, large and binary ones by their sha256 ("lfs").

Which of them a file is depends on its name and size alone, however its bytes came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from modules.hub_api.answers import iso
from modules.models import Blob, Commit, CommitFile, Repo

LARGE = 10 * 1024 * 1024
BINARY = (
    ".7z", ".arrow", ".bin", ".bz2", ".ckpt", ".ftz", ".gguf", ".gz", ".h5", ".joblib", ".mlmodel",
    ".model", ".msgpack", ".npy", ".npz", ".onnx", ".ot", ".parquet", ".pb", ".pickle", ".pkl",
    ".pt", ".pth", ".rar", ".safetensors", ".tar", ".tflite", ".tgz", ".wasm", ".xz", ".zip",
    ".zst",
)  # fmt: skip


def is_lfs(path: str, size: int) -> bool:
    return size > LARGE or size > 0 and path.lower().endswith(BINARY)


def etag(path: str, blob: Blob) -> str:
    return blob.sha256 if is_lfs(path, blob.size) else blob.git_sha1


def lfs_of(path: str, blob: Blob) -> dict[str, Any] | None:
    """The pointer that git would hold in the file's place."""
    if not is_lfs(path, blob.size):
        return None
    return {"oid": blob.sha256, "size": blob.size, "pointerSize": len(pointer(blob))}


def pointer(blob: Blob) -> bytes:
    version = "version https://git-lfs.github.com/spec/v1"
    return f"{version}\noid sha256:{blob.sha256}\nsize {blob.size}\n".encode()


def git_id(path: str, blob: Blob) -> str:
    """The id in git's tree: of the bytes, or of the pointer to them."""
    if not is_lfs(path, blob.size):
        return blob.git_sha1
    data = pointer(blob)
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def shown(file: CommitFile, last: Commit | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "file",
        "path": file.path,
        "size": file.blob.size,
        "oid": git_id(file.path, file.blob),
    }
    if lfs := lfs_of(file.path, file.blob):
        found["lfs"] = lfs
    if last:
        found["lastCommit"] = shown_commit(last)
    return found


def shown_folder(
    path: str, files: Iterable[CommitFile], last: Commit | None = None
) -> dict[str, Any]:
    """Git would name a folder by its tree; ours by what is in it, which changes as often."""
    inside = "".join(f"{file.path}\0{file.blob_id}\0" for file in files)
    oid = hashlib.sha1(inside.encode(), usedforsecurity=False).hexdigest()
    found: dict[str, Any] = {"type": "directory", "path": path, "size": 0, "oid": oid}
    if last:
        found["lastCommit"] = shown_commit(last)
    return found


def shown_commit(commit: Commit) -> dict[str, str]:
    return {"id": commit.sha, "title": commit.title, "date": iso(commit.created_at)}


def last_changes(
    repo: Repo, commit: Commit | None, files: Iterable[CommitFile]
) -> Mapping[str, Commit]:
    """The commit that gave each file its present bytes: back along the history while they stay."""
    if commit is None:
        return {}
    wanted = {file.path: file.blob_id for file in files}
    found = dict.fromkeys(wanted, commit)
    commits = {c.pk: c for c in repo.commits.filter(pk__lte=commit.pk)}
    trees: dict[int, dict[str, str]] = {pk: {} for pk in commits}
    rows = CommitFile.objects.filter(commit__in=commits, path__in=wanted)
    for pk, path, sha256 in rows.values_list("commit_id", "path", "blob_id"):
        trees[pk][path] = sha256
    here = commit
    while wanted and here.parent_id in commits:
        here = commits[here.parent_id]
        wanted = {p: sha256 for p, sha256 in wanted.items() if trees[here.pk].get(p) == sha256}
        found |= dict.fromkeys(wanted, here)
    return found
