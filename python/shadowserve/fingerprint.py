"""What a KV value depends on, as bytes: the root of every chunk key (design: "Keys and names").

Two engines share a cache exactly when these parts are equal. Weights enter by content, so a model's name
and path never matter, and other weights under the same path never hit. Parts are tagged, and absent is
different from empty.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shadowserve.config import RefusedError

# Raise when the meaning of stored KV changes for the same weights and configuration.
KV_SEMANTICS_VERSION = 1

# Entries of a model's configuration that name, document or sample, but never change a KV value.
_NOT_SEMANTIC = frozenset(
    {
        "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_internal", "name_or_path",
        "transformers_version", "use_cache", "torch_dtype", "dtype", "id2label", "label2id", "problem_type",
        "output_attentions", "output_hidden_states", "return_dict", "pad_token_id", "bos_token_id", "eos_token_id",
        "sep_token_id", "initializer_range", "attention_dropout", "auto_map", "task_specific_params", "finetuning_task",
        "tokenizer_class", "chunk_size_feed_forward", "torchscript", "architectures_map",
    }
)  # fmt: skip
# Formats whose weights are files in the model's folder; by vLLM's names.
_FILE_FORMATS = frozenset(
    {"auto", "hf", "safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "pt", "npcache", "mistral"}
)
# RoPE kinds whose values do not depend on how long a context the engine was started for.
_ROPE_FREE_OF_LENGTH = frozenset({"default", "llama3", "linear", "yarn", "proportional", "mrope"})


class Hasher(Protocol):
    """Of _core."""

    def fingerprint_files(self, paths: Sequence[str], cache_file: str | None = None) -> bytes: ...
    def root_key(self, parts: Sequence[bytes]) -> bytes: ...


def canonical_json(value: Any) -> bytes:
    """The same bytes for the same meaning: sorted keys, no spaces; what JSON lacks goes by its text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str).encode()


def semantic_config(config: Any) -> Any:
    """The configuration without entries that never change a KV value."""
    if isinstance(config, Mapping):
        return {str(key): semantic_config(value) for key, value in config.items() if key not in _NOT_SEMANTIC}
    if isinstance(config, (list, tuple)):
        return [semantic_config(value) for value in config]
    return config


def cache_file() -> str:
    """Where digests of unchanged files are kept, so that a start does not read all weights again."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(root) / "shadowserve"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder / "file-digests")


def weight_files(folder: Path) -> list[str]:
    """The checkpoint's files by name: safetensors, else PyTorch's, and code that comes with the model."""
    weights = sorted(folder.glob("*.safetensors")) or sorted([*folder.glob("*.bin"), *folder.glob("*.pt")])
    if not weights:
        raise RefusedError(
            f"no weight files (*.safetensors, *.bin, *.pt) in {folder}; remedy: serve a checkpoint folder"
        )
    return [str(path) for path in [*weights, *sorted(folder.glob("*.py"))]]


def model_folder(model_config: Any, load_config: Any) -> Path:
    """Where vLLM read the weights from; a hub model is looked up in the local cache only."""
    folder = Path(model_config.model)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model_config.model,
                revision=model_config.revision,
                cache_dir=load_config.download_dir,
                local_files_only=True,
            )
        )
    except Exception as error:
        raise RefusedError(
            f"cannot find the weight files of '{model_config.model}' ({error}); remedy: serve a local folder"
        ) from error


def weights_part(hasher: Hasher, vllm_config: Any) -> bytes:
    """Digest of the weights' contents."""
    load_format = str(vllm_config.load_config.load_format)
    if load_format == "dummy":
        # Random weights: the same only for the same seed, versions and partition.
        from importlib.metadata import version

        parallel = vllm_config.parallel_config
        return b"dummy " + canonical_json(
            {
                "seed": vllm_config.model_config.seed,
                "torch": version("torch"),
                "tensor_parallel": parallel.tensor_parallel_size,
                "pipeline_parallel": parallel.pipeline_parallel_size,
            }
        )
    if load_format not in _FILE_FORMATS:
        raise RefusedError(
            f"--load-format {load_format}: the weights' contents cannot be told, so nothing could be shared safely; "
            "remedy: --load-format safetensors"
        )
    files = weight_files(model_folder(vllm_config.model_config, vllm_config.load_config))
    return b"files " + hasher.fingerprint_files(files, cache_file())


def config_part(vllm_config: Any) -> bytes:
    """The effective model configuration and the flags that change KV values."""
    model = vllm_config.model_config
    config = model.hf_config.to_dict()
    parts = {
        "config": semantic_config(config),
        "dtype": str(model.dtype),
        "quantization": str(model.quantization),
        "kv_cache_dtype": str(vllm_config.cache_config.cache_dtype),
        "kv_cache_dtype_skip_layers": list(getattr(vllm_config.cache_config, "kv_cache_dtype_skip_layers", ())),
    }
    if not rope_kinds(config) <= _ROPE_FREE_OF_LENGTH:
        parts["max_model_len"] = model.max_model_len
    return canonical_json(parts)


def rope_kinds(config: Any, inside: bool = False) -> set[str]:
    """Every RoPE type named anywhere in the configuration."""
    if not isinstance(config, Mapping):
        return set()
    found = {str(config[key]) for key in ("rope_type", "type") if inside and config.get(key)}
    for key, value in config.items():
        found |= rope_kinds(value, inside or key in ("rope_parameters", "rope_scaling"))
    return found


def model_root(hasher: Hasher, vllm_config: Any) -> bytes:
    """32 bytes: the same for all engines that may share KV."""
    return hasher.root_key(
        [
            b"kv semantics %d" % KV_SEMANTICS_VERSION,
            b"weights " + weights_part(hasher, vllm_config),
            b"config " + config_part(vllm_config),
        ]
    )


class Identity:
    """What of a single request enters its keys: salt, adapter, multimodal items."""

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._adapters: dict[tuple[int, str], bytes] = {}

    def parts(self, request: Any) -> list[bytes] | None:
        """None: this request's KV cannot be named (prompt embeddings, a growing session, an unreadable
        adapter), so it is neither looked up nor saved."""
        if request.prompt_embeds is not None or request.prompt_token_ids is None or request.resumable:
            return None
        if request.prompt_is_token_ids is not None:
            return None
        adapter = self._adapter(request.lora_request)
        if adapter is None:
            return None
        salt = request.cache_salt
        return [b"salt absent" if salt is None else b"salt present " + salt.encode(), adapter]

    def extras(self, request: Any) -> list[tuple[int, bytes]]:
        """(token position, what stands there) of each multimodal item, in the order of positions."""
        items = []
        for feature in request.mm_features:
            place = feature.mm_position
            items.append(
                (place.offset, canonical_json([feature.modality, feature.identifier, place.offset, place.length]))
            )
        return sorted(items)

    def _adapter(self, lora: Any) -> bytes | None:
        if lora is None:
            return b"adapter absent"
        key = (lora.lora_int_id, lora.lora_path)
        if lora.load_inplace or key not in self._adapters:
            folder = Path(lora.lora_path)
            if not folder.is_dir():
                return None
            weights = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin", ".pt"))
            if not weights:
                return None
            files = [str(path) for path in [*weights, *sorted(folder.glob("*.json"))]]
            self._adapters[key] = b"adapter " + self._hasher.fingerprint_files(files, cache_file())
        return self._adapters[key]
