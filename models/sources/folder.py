"""Open a Hugging Face folder: its config and its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.errors import InputError
from edgekit.models.sources.safetensors_file import SafetensorsSource
from edgekit.models.sources.stored import StoredTensor, TensorSource

MAX_JSON_BYTES = 1 << 26
WAY_OUT = "take the original checkpoint in 16 or 32 bits"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; InputError where the file is missing, too large or something else."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InputError(f"{path} has over {MAX_JSON_BYTES} bytes: it is not a checkpoint's JSON file")
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """The text model's config.json; InputError for adapters, quantised checkpoints and folders without one."""
    path = folder / "config.json"
    if not path.exists():
        if (folder / "adapter_config.json").exists():
            base = read_json(folder / "adapter_config.json").get("base_model_name_or_path")
            raise InputError(
                f"{folder} is a LoRA adapter without its base: "
                f"give the base ({base}) as checkpoint and --adapter {folder}"
            )
        raise InputError(f"{folder} has no config.json: give the folder of a Hugging Face checkpoint")
    config = text_config(read_json(path))
    refuse_quantised(path, config)
    return config


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the language model: of a multimodal checkpoint its text part, with the token ids of the whole."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    kept = ("quantization_config", "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")
    outer = {key: value for key, value in config.items() if key in kept}
    return {"model_type": f"{config.get('model_type')}_text", **outer, **text}


# Where the weights of a multimodal checkpoint's other parts are, in transformers' older and newer layout.
OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")


def text_name(name: str) -> str:
    """A tensor's name in the text-only model: a multimodal checkpoint nests the same names one level deeper."""
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name.removeprefix("language_model.")


class LanguageModel:
    """The language model's tensors of a multimodal checkpoint, under the names of the text-only model."""

    def __init__(self, source: TensorSource) -> None:
        self._source = source
        self._names = {text_name(name): name for name in source.stored if not name.startswith(OTHER_PARTS)}
        self._stored = {name: source.stored[stored] for name, stored in self._names.items()}

    @property
    def stored(self) -> dict[str, StoredTensor]:
        """The text-only names and what the files have for them."""
        return self._stored

    def dtype(self, name: str) -> str:
        return self._source.dtype(self._names[name])

    def read(self, name: str) -> NDArray[np.float32]:
        return self._source.read(self._names[name])


def refuse_quantised(path: Path, config: Mapping[str, Any]) -> None:
    """InputError, with the method's name, for a checkpoint that is already quantised."""
    quantisation = config.get("quantization_config")
    method: Any = None
    if quantisation is not None:
        method = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
    elif (path.parent / "quantize_config.json").exists():
        method = "gptq"
    elif (path.parent / "quant_config.json").exists():
        method = "awq"
    else:
        return
    raise InputError(f"{path.parent}: the checkpoint is already quantised ({method or 'unknown method'}): {WAY_OUT}")


def open_weights(folder: Path) -> TensorSource:
    """The folder's weights: model.safetensors, its shards, or a pickle that loads with weights_only."""
    if (folder / "model.safetensors").exists():
        return SafetensorsSource((folder / "model.safetensors",))
    if (folder / "model.safetensors.index.json").exists():
        shards = read_index(folder / "model.safetensors.index.json")
        source = SafetensorsSource(tuple(dict.fromkeys(shards.values())))
        check_index(shards, source)
        return source
    for name in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
        if (folder / name).exists():
            from edgekit.models.sources.pickle_file import PickleSource

            if name.endswith(".bin"):
                return PickleSource((folder / name,))
            shards = read_index(folder / name)
            pickles = PickleSource(tuple(dict.fromkeys(shards.values())))
            check_index(shards, pickles)
            return pickles
    if (folder / "model.onnx").exists():
        raise InputError(f"{folder} is an ONNX folder: give the checkpoint that it was exported from")
    raise InputError(f"{folder} has no model.safetensors, shards' index or pytorch_model.bin: download the weights too")


def read_index(path: Path) -> dict[str, Path]:
    """Tensor name -> shard, every shard a file beside the index."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{path} has no weight_map: copy or download it again")
    shards = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise InputError(f"{path}: {file!r} is not the name of a file beside it")
        shards[name] = path.parent / file
    for shard in dict.fromkeys(shards.values()):
        if not shard.is_file():
            raise InputError(f"{shard} is missing, which {path.name} names: download all shards")
    return shards


def check_index(shards: Mapping[str, Path], source: TensorSource) -> None:
    """InputError where a shard lacks a tensor that the index promises."""
    for name, file in shards.items():
        if name not in source.stored or source.stored[name].file != file:
            raise InputError(f"{file} has no {name}, which the index promises: copy or download it again")
