"""Check that mlx-lm can and may load an MLX folder, and describe the model."""

from __future__ import annotations

import re

from services.puller.formats.mlx.folder import MlxFolder
from services.puller.formats.mlx.safetensors import SafetensorsTensor, read_safetensors
from services.shared.errors import InvalidModelFile
from services.shared.store.manifest import Description

# mlx-lm imports `mlx_lm.models.<model_type>`, so the type must be a single module name.
_MODEL_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NOT_LANGUAGE_MODELS = frozenset(
    {"bert", "roberta", "xlm-roberta", "distilbert", "clip", "siglip", "vit", "whisper", "wav2vec2"}
)
_BITS = frozenset({2, 3, 4, 5, 6, 8})
_DTYPE_NAMES = {"F16": "F16", "BF16": "BF16", "F32": "F32", "F8_E4M3": "FP8"}
_MAX_LAYERS = 512
_MAX_CONTROL_TOKENS = 16384
_MAX_CONTROL_CHARACTERS = 256 << 10  # of all of them


def check_mlx(folder: MlxFolder) -> None:
    """Raise InvalidModelFile for an incomplete model, another kind of model, or one with code."""
    if not folder.config:
        raise InvalidModelFile("the folder has no config.json")
    _check_code(folder)
    _check_config(folder)
    if not any(name in folder.paths() for name in ("tokenizer.json", "tokenizer.model")):
        raise InvalidModelFile("the tokenizer is incomplete: there is no tokenizer.json")
    _check_weights(folder)


def describe_mlx(folder: MlxFolder) -> Description:
    """Describe a model without its chat capabilities, which `describe.py` adds."""
    added = folder.added_tokens()
    ending = {added[i][0] for i in folder.eos_ids() if i in added}
    eos = folder.special_token("eos_token")
    control = sorted({text for text, special in added.values() if special and text})
    user_defined = sorted({text for text, special in added.values() if text and not special})
    if sum(map(len, control)) > _MAX_CONTROL_CHARACTERS:
        raise InvalidModelFile("the tokenizer declares longer control tokens than any real one")
    tensors = _read_tensors(folder)
    return Description(
        format="mlx",
        architecture=str(folder.config.get("model_type")),
        parameter_count=_count_parameters(folder, tensors),
        context_length=folder.integer("max_position_embeddings"),
        embedding_length=folder.integer("hidden_size"),
        quantization=_find_quantization(folder, tensors),
        chat_template=folder.chat_template(),
        template_source="file",
        bos_token=folder.special_token("bos_token"),
        eos_token=eos,
        add_bos=folder.tokenizer_config.get("add_bos_token") is True,
        control_tokens=tuple(sorted(control[:_MAX_CONTROL_TOKENS], key=lambda t: (-len(t), t))),
        user_defined_tokens=tuple(user_defined[:_MAX_CONTROL_TOKENS]),
        stop_tokens=tuple(sorted(ending | ({eos} if eos else set()))),
    )


def _check_code(folder: MlxFolder) -> None:
    if "model_file" in folder.config:
        raise InvalidModelFile("config.json names a Python file to run; such models are refused")
    for config in (folder.config, folder.tokenizer_config):
        if config.get("trust_remote_code"):
            raise InvalidModelFile("the model asks to run its own code; such models are refused")


def _check_config(folder: MlxFolder) -> None:
    model_type = folder.config.get("model_type")
    if not isinstance(model_type, str) or not _MODEL_TYPE.fullmatch(model_type):
        raise InvalidModelFile("config.json does not name its model_type")
    if model_type in _NOT_LANGUAGE_MODELS:
        raise InvalidModelFile(
            f"the MLX engine cannot run a {model_type} model: it is not a language model"
        )
    layers, width = folder.integer("num_hidden_layers"), folder.integer("hidden_size")
    if layers is not None and not 0 < layers <= _MAX_LAYERS:
        raise InvalidModelFile(f"config.json is damaged: num_hidden_layers is {layers}")
    if width is not None and not 0 < width <= 1 << 20:
        raise InvalidModelFile(f"config.json is damaged: hidden_size is {width}")
    bits = _quantization_bits(folder)
    if bits is not None and bits not in _BITS:
        raise InvalidModelFile(f"config.json has an unsupported quantisation of {bits} bits")


def _check_weights(folder: MlxFolder) -> None:
    weights = folder.weights()
    if not weights:
        raise InvalidModelFile("the folder has no safetensors weights")
    index = folder.json("model.safetensors.index.json")
    split_list = index.get("weight_map") if index else None
    if not isinstance(split_list, dict):
        return
    if missing := {str(file) for file in split_list.values()} - set(weights):
        raise InvalidModelFile(f"{len(missing)} of the model's safetensors files are missing")


def _read_tensors(folder: MlxFolder) -> list[SafetensorsTensor]:
    return [tensor for path in folder.weights().values() for tensor in read_safetensors(path)]


def _quantization_bits(folder: MlxFolder) -> int | None:
    settings = folder.config.get("quantization") or folder.config.get("quantization_config")
    bits = settings.get("bits") if isinstance(settings, dict) else None
    return bits if isinstance(bits, int) else None


def _count_parameters(folder: MlxFolder, tensors: list[SafetensorsTensor]) -> int:
    """A packed word holds 32 / bits parameters; its scales and biases are not parameters."""
    bits = _quantization_bits(folder)
    if bits is None:
        return sum(tensor.elements for tensor in tensors)
    packed = {t.name.removesuffix(".weight") for t in tensors if t.dtype == "U32"}
    count = 0
    for tensor in tensors:
        stem, _, kind = tensor.name.rpartition(".")
        if tensor.dtype == "U32":
            count += tensor.elements * 32 // bits
        elif not (stem in packed and kind in ("scales", "biases")):
            count += tensor.elements
    return count


def _find_quantization(folder: MlxFolder, tensors: list[SafetensorsTensor]) -> str | None:
    bits = _quantization_bits(folder)
    if bits is not None:
        return f"{bits}bit"
    largest = max(tensors, key=lambda tensor: tensor.elements, default=None)
    return _DTYPE_NAMES.get(largest.dtype) if largest else None
