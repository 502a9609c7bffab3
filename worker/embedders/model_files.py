"""The files of a `sentence-transformers:` model: a folder of this machine, or a download from the
hub of Hugging Face.

A model is downloaded once. From then on its copy is used without asking the hub, so a column gets
vectors of one version of the model. Only what is needed is downloaded: never a pickle or a program,
which would run code of the author when it is loaded.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from worker.embedders.base import Prompts
from worker.embedders.prompts import NONE, known_prompts
from worker.errors import ProviderRefused, SettingsError, Transient, WorkerError
from worker.settings import Settings

PROVIDER = "sentence-transformers"
OWNER = "sentence-transformers"  # of the models that are named without one
CONFIG = "config_sentence_transformers.json"
Kind = Literal["SentenceTransformer", "CrossEncoder"]  # the classes of the library
PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")
# Pickles and programs, and copies of the weights for other libraries.
NOT_NEEDED = (
    *("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.py"),
    *("*.onnx", "*.onnx_data", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.gguf", "*.tflite"),
)


def check_installed() -> None:
    """Raise SettingsError if the packages of the extra are not installed."""
    if find_spec("sentence_transformers") is None:
        raise SettingsError(
            "the package `sentence-transformers` is not installed",
            "Install it with: pip install 'embedding-worker[sentence-transformers]'. Without a GPU,"
            " first run: pip install torch --index-url https://download.pytorch.org/whl/cpu",
        )


def check_usable(name: str, settings: Settings) -> None:
    """Raise SettingsError unless the packages are installed and the environment names the model.

    Other names come from the database, and a role that can write there must not choose what is
    downloaded and loaded.
    """
    check_installed()
    provider, _, default = settings.embedding_model.partition(":")
    if name in (settings.sentence_transformers_models or ()) or (provider, default) == (
        PROVIDER,
        name,
    ):
        return
    raise SettingsError(
        f"{PROVIDER}:{name} is a model that the environment does not name",
        f"If it may be loaded, add {name} to SENTENCE_TRANSFORMERS_MODELS, or set"
        f" EMBEDDING_MODEL={PROVIDER}:{name}.",
    )


def own_prompts(name: str) -> Prompts:
    """Return the prompts in the configuration of a model; those of the known model of that name if
    it has none.

    Raises what `model_folder` raises.
    """
    configured = _configured_prompts(model_folder(name, only=CONFIG) / CONFIG)
    return known_prompts(name) if configured == NONE else configured


def _configured_prompts(file: Path) -> Prompts:
    match _read(file):
        case {"prompts": dict(prompts)}:
            # in the order in which the library looks for them
            documents = [prompts.get(role) for role in ("document", "passage", "corpus")]
            document = next((prompt for prompt in documents if prompt), "")
            return Prompts(str(document), str(prompts.get("query") or ""))
    return NONE


def _read(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; empty if there is none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def model_folder(name: str, only: str | None = None) -> Path:
    """Return the folder with the files of a model, or at least with the file `only`.

    Raises SettingsError if a folder is missing, and ProviderRefused or Transient if a download
    fails.
    """
    if not Path(name).is_absolute():
        return _downloaded(name if "/" in name else f"{OWNER}/{name}", only)
    if not Path(name).is_dir():
        raise SettingsError(
            f"there is no folder {name} with a model",
            "Give the absolute path of a folder, or the name of a model on the hub.",
        )
    return Path(name)


def why_unusable(folder: Path, kind: Kind) -> str | None:
    """Why the files in a folder cannot be loaded as a model of this kind; None if they can.

    The library loads models of other kinds as well, and makes up what they lack: it gives an
    embedding model a pooling that it was not trained with, and a reranker random weights.
    """
    for pattern in PICKLES:
        for pickle in folder.rglob(pattern):
            if not any(pickle.parent.glob("*.safetensors")):
                return f"its weights are a pickle ({pickle.name}), which may run code when loaded"
    made_for = _read(folder / CONFIG).get("model_type", "SentenceTransformer")
    architectures = _read(folder / "config.json").get("architectures") or [""]
    if kind == "CrossEncoder":
        is_one = made_for == kind or str(architectures[0]).endswith("ForSequenceClassification")
        return None if is_one else "it is not a cross-encoder"
    has_modules = (folder / "modules.json").is_file() and made_for == kind
    return None if has_modules else "it is not an embedding model of Sentence Transformers"


def _downloaded(repository: str, only: str | None) -> Path:
    """The folder of a model of the hub; it is downloaded unless it is here."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils.logging import get_logger
    from huggingface_hub.utils.tqdm import disable_progress_bars

    constants.HF_HUB_DISABLE_TELEMETRY = True
    disable_progress_bars()
    get_logger("huggingface_hub").setLevel("ERROR")
    wanted: dict[str, Any] = {"allow_patterns": only} if only else {}
    wanted["ignore_patterns"] = list(NOT_NEEDED)
    try:
        return Path(snapshot_download(repository, local_files_only=True, **wanted))
    except LocalEntryNotFoundError:
        pass
    except ValueError:  # of the hub's client: a name that no model can have
        raise _not_found(repository) from None
    try:
        return Path(snapshot_download(repository, **wanted))
    except Exception as error:  # of the hub, of the network, of the disk
        raise _download_error(repository, error) from None


def _download_error(repository: str, error: Exception) -> WorkerError:
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    model = f"{PROVIDER}:{repository}"
    match error:
        case GatedRepoError():
            return ProviderRefused(
                f"{constants.ENDPOINT} gives {model} only to those who have accepted its terms",
                f"Accept them at {constants.ENDPOINT}/{repository}, and set HF_TOKEN.",
                error_class="unauthorized",
                of_the_model=True,
            )
        case RepositoryNotFoundError():
            return _not_found(repository)
    if constants.is_offline_mode():
        return SettingsError(
            f"{model} is not on this machine, and HF_HUB_OFFLINE is set",
            f"Download it where there is a network: hf download {repository}",
        )
    reason = error.__cause__ or error
    words = getattr(reason, "strerror", None) or type(reason).__name__
    return Transient(
        f"{model} cannot be downloaded from {constants.ENDPOINT}: {words}",
        error_class="unreachable",
    )


def _not_found(repository: str) -> ProviderRefused:
    from huggingface_hub import constants

    return ProviderRefused(
        f"{constants.ENDPOINT} has no model {repository}, or it is private",
        "Check the name. For a private model, set HF_TOKEN.",
        error_class="not_found",
        of_the_model=True,
    )
