"""Select the files of a repository that make up the model. Pure.

When a name requests no quantisation, the first available one of this order is selected. Labels are
compared without case.

    q4_k_m q5_k_m q4_k_s q5_k_s q4_0 q5_0 q6_k q8_0     the best quality per byte, and fast on
                                                        every backend
    iq4_nl iq4_xs                                       nearly q4_k_s; slower on CPUs
    q4_k_xl q4_k_l q5_k_xl q5_k_l q6_k_xl q6_k_l        mixes with larger embeddings, and k-quants
    q8_k_xl q4_k q5_k q4_1 q5_1 mxfp4 nvfp4             that do not name their mix; old or special
    q3_k_l q3_k_xl q3_k_m q3_k q3_k_s iq3_m iq3_s       below four bits the quality drops: the
    iq3_xs iq3_xxs q2_k_xl q2_k_l q2_k q2_k_s iq2_m     largest first, k-quants before i-quants
    iq2_s iq2_xs iq2_xxs iq1_m iq1_s tq2_0 tq1_0
    (no label)                                          the file name does not say
    f16 bf16 f32                                        not quantised: twice to eight times the
                                                        size, and no better answers

A prefix such as `UD-` and the end `_MOE` of `MXFP4_MOE` are ignored. An mmproj file is a projector
and never the model. An imatrix file holds measurements for quantisation and is never selected.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.puller.formats import engine_support
from services.puller.sources.base import Format
from services.shared.errors import PullFailed
from services.shared.store.manifest import FileRole

# fmt: off
QUANTIZATION_ORDER = (
    "q4_k_m", "q5_k_m", "q4_k_s", "q5_k_s", "q4_0", "q5_0", "q6_k", "q8_0", "iq4_nl",
    "iq4_xs", "q4_k_xl", "q4_k_l", "q5_k_xl", "q5_k_l", "q6_k_xl", "q6_k_l", "q8_k_xl", "q4_k",
    "q5_k", "q4_1", "q5_1", "mxfp4", "nvfp4", "q3_k_l", "q3_k_xl", "q3_k_m", "q3_k", "q3_k_s",
    "iq3_m", "iq3_s", "iq3_xs", "iq3_xxs", "q2_k_xl", "q2_k_l", "q2_k", "q2_k_s", "iq2_m",
    "iq2_s", "iq2_xs", "iq2_xxs", "iq1_m", "iq1_s", "tq2_0", "tq1_0",
)
# fmt: on
UNQUANTIZED = ("f16", "bf16", "f32")
BOTH_FORMATS = (
    "The repository has GGUF files too. The MLX ones were selected, which are preferred on Apple"
    " silicon; `:gguf` after the name selects the others."
)
_PROJECTOR_ORDER = ("f16", "bf16", "f32", "q8_0")
_RANK = {label: rank for rank, label in enumerate(QUANTIZATION_ORDER)}
_RANK.update({label: len(QUANTIZATION_ORDER) + 1 + i for i, label in enumerate(UNQUANTIZED)})
_NO_LABEL = len(QUANTIZATION_ORDER)
_UNKNOWN_LABEL = len(QUANTIZATION_ORDER) - 0.5
_MAX_SHOWN = 50  # models of a repository, in a message

_LABEL = re.compile(
    r"(?<![a-z0-9])(q[1-9](?:_k(?:_[smlx]+)?|(?:_\d)*)|iq[1-9]_(?:xxs|xs|s|m|nl)"
    r"|tq[12]_0|mxfp4(?:_moe)?|nvfp4|bf16|fp?16|fp?32)(?![a-z0-9])",
    re.IGNORECASE,
)
_SPLIT = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<of>\d{5})\.gguf$", re.IGNORECASE)
_REGISTRY_FILES = {
    "template": FileRole.TEMPLATE,
    "system": FileRole.SYSTEM,
    "params": FileRole.PARAMS,
}
_TOKENIZER_FILES = re.compile(
    r"(tokenizer(?!.*\.py$).*|vocab\.(json|txt)|merges\.txt|added_tokens\.json"
    r"|special_tokens_map\.json|[^/]*\.(model|tiktoken))",
    re.IGNORECASE,
)
_CONFIG_FILES = re.compile(
    r"([^/]*config|\d_(Pooling|Dense)/config|model\.safetensors\.index)\.json", re.IGNORECASE
)
_INDEX_SUFFIX = ".safetensors.index.json"
_TEMPLATE_FILES = re.compile(
    r"chat_template\.(jinja|json)|chat_templates/[^/]+\.jinja", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class SelectionCriteria:
    """What a pull requests: a file by its path, a quantisation, or neither."""

    file: str | None = None
    quantization: str | None = None
    format: Format | None = None
    prefers_mlx: bool = False  # where the repository has both formats and no format is requested


@dataclass(frozen=True, slots=True)
class FileSelection:
    """The files of a model with their roles, and its quantisation label if a name contains it."""

    format: Format
    files: tuple[tuple[FileRole, str], ...]
    quantization: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Candidate:
    paths: tuple[str, ...]
    label: str | None
    missing: tuple[int, ...] = ()


def select_files(paths: Iterable[str], criteria: SelectionCriteria) -> FileSelection:
    """Return the files to download.

    Raises PullFailed, naming what the repository has, when nothing matches the criteria, and with
    the detail `needs_mlx` when it is a model for which there is no engine.

    1  a file by name     2  MLX, requested or preferred     3  GGUF     4  MLX, without any GGUF
    """
    paths = sorted(paths)
    ggufs = [p for p in paths if _is_model_gguf(p)]
    prefers_mlx = criteria.prefers_mlx and engine_support.LOADS_MLX
    is_mlx_preferred = criteria.format is None and prefers_mlx and _is_mlx(paths)
    if criteria.file is not None:  # 1
        return _select_gguf(paths, ggufs, criteria)
    if is_mlx_preferred:  # 2
        notes = (BOTH_FORMATS,) if ggufs else ()
        return replace(_select_mlx(paths), warnings=notes)
    if criteria.format == "mlx":  # 2
        return _select_mlx(paths)
    if ggufs or criteria.format == "gguf":  # 3
        return _select_gguf(paths, ggufs, criteria)
    return _select_mlx(paths)  # 4


def find_weight_index(selection: FileSelection) -> str | None:
    """The file of an MLX selection that lists the files of its weights, if there is one."""
    paths = [path for _, path in selection.files if path.endswith(_INDEX_SUFFIX)]
    return paths[0] if selection.format == "mlx" and paths else None


def apply_weight_index(
    selection: FileSelection, paths: Collection[str], weight_map: Mapping[str, str]
) -> FileSelection:
    """Select exactly the weights that the repository's index names.

    `weight_map` is the file of each tensor. Raises PullFailed when one is not safetensors, or not
    among `paths`.
    """
    named = set(weight_map.values())
    if not all(path.endswith(".safetensors") for path in named):
        raise PullFailed("the repository's index names files that are not safetensors")
    if missing := sorted(named - set(paths)):
        raise PullFailed(
            f"the repository is incomplete: its index names {len(named)} files of weights, and"
            f" {missing[0][:100]} is not there"
        )
    others = [(role, path) for role, path in selection.files if role is not FileRole.MODEL]
    weights = [(FileRole.MODEL, path) for path in sorted(named)]
    return replace(selection, files=(*weights, *others))


def parse_quantization(path: str) -> str | None:
    """The quantisation in the name of a file, else of its folder, in lower case."""
    for part in reversed(path.split("/")):
        found = _LABEL.findall(part)
        if found:
            return _normalize_label(str(found[-1]))
    return None


def rank_quantization(label: str | None) -> float:
    """The position of a label in the order of preference; a lower rank is preferred."""
    return _NO_LABEL if label is None else _RANK.get(label, _UNKNOWN_LABEL)


def list_quantizations(paths: Iterable[str]) -> tuple[str, ...]:
    """The labels of all models among the files, in the order of preference."""
    labels = {parse_quantization(path) for path in paths if _is_model_gguf(path)}
    return tuple(
        sorted((label for label in labels if label), key=lambda x: (rank_quantization(x), x))
    )


def is_projector(path: str) -> bool:
    """Whether the file is a vision or audio encoder that belongs to a model."""
    return path.lower().endswith(".gguf") and "mmproj" in path.rsplit("/", 1)[-1].lower()


def _normalize_label(label: str) -> str:
    label = label.lower()
    return {"fp16": "f16", "fp32": "f32", "mxfp4_moe": "mxfp4"}.get(label, label)


def _is_model_gguf(path: str) -> bool:
    name = path.rsplit("/", 1)[-1].lower()
    return name.endswith(".gguf") and not is_projector(path) and "imatrix" not in name


def _select_gguf(
    paths: Sequence[str], ggufs: Sequence[str], criteria: SelectionCriteria
) -> FileSelection:
    candidates = _find_candidates(ggufs)
    if not candidates:
        raise PullFailed("the repository has no GGUF file")
    matching = [c for c in candidates if _matches(c, criteria)]
    if not matching:
        have = sorted(
            {c.label or c.paths[0] for c in candidates}, key=lambda x: (rank_quantization(x), x)
        )
        requested = criteria.file or criteria.quantization
        shown = ", ".join(have[:_MAX_SHOWN]) + (", …" if len(have) > _MAX_SHOWN else "")
        raise PullFailed(f"the repository has no {requested}; it has: {shown}")
    best = min(matching, key=lambda c: (rank_quantization(c.label), len(c.paths[0]), c.paths[0]))
    if best.missing:
        raise PullFailed(f"part {best.missing[0]} of the split model is not in the repository")
    same = [c for c in matching if rank_quantization(c.label) == rank_quantization(best.label)]
    warnings: tuple[str, ...] = ()
    if len(same) > 1 and criteria.file is None:
        warnings = (
            f"the repository has {len(same)} models of this kind; {best.paths[0]} was selected",
        )
    projectors = _select_projector(paths, best.paths[0])
    if projectors and FileRole.PROJECTOR not in engine_support.EXTRA_ROLES:
        projectors, warnings = [], (*warnings, engine_support.TEXT_ONLY)
    return FileSelection(
        format="gguf",
        files=(
            *((FileRole.MODEL, path) for path in best.paths),
            *projectors,
            *((_REGISTRY_FILES[p], p) for p in paths if p in _REGISTRY_FILES),
        ),
        quantization=best.label,
        warnings=warnings,
    )


def _find_candidates(ggufs: Sequence[str]) -> list[_Candidate]:
    whole: list[_Candidate] = []
    parts: dict[tuple[str, int], dict[int, str]] = {}
    for path in ggufs:
        match = _SPLIT.match(path)
        if match is None:
            whole.append(_Candidate((path,), parse_quantization(path)))
        else:
            parts.setdefault((match["stem"], int(match["of"])), {})[int(match["part"])] = path
    for (_, total), numbered in parts.items():
        missing = tuple(n for n in range(1, total + 1) if n not in numbered)
        ordered = tuple(numbered[n] for n in sorted(numbered))
        whole.append(_Candidate(ordered, parse_quantization(ordered[0]), missing))
    return whole


def _matches(candidate: _Candidate, criteria: SelectionCriteria) -> bool:
    if criteria.file is not None:
        file = criteria.file.lower()
        return any(file in (p.lower(), p.rsplit("/", 1)[-1].lower()) for p in candidate.paths)
    if criteria.quantization is None:
        return True
    requested = criteria.quantization.lower().removeprefix("ud-")
    return candidate.label == _normalize_label(requested)


def _select_projector(paths: Sequence[str], model: str) -> list[tuple[FileRole, str]]:
    found = [p for p in paths if is_projector(p)]
    if not found:
        return []
    folder = model.rpartition("/")[0]

    def preference(path: str) -> tuple[bool, int, str]:
        label = parse_quantization(path)
        rank = _PROJECTOR_ORDER.index(label) if label in _PROJECTOR_ORDER else len(_PROJECTOR_ORDER)
        return path.rpartition("/")[0] != folder, rank, path

    return [(FileRole.PROJECTOR, min(found, key=preference))]


def _is_mlx(paths: Sequence[str]) -> bool:
    return "config.json" in paths and any(p.endswith(".safetensors") for p in paths)


def _select_mlx(paths: Sequence[str]) -> FileSelection:
    if not _is_mlx(paths):
        if any(p.endswith((".bin", ".pt", ".pth", ".pkl", ".ckpt")) for p in paths):
            raise PullFailed(
                "the repository has only pickled weights, which can run code; "
                "use a repository with safetensors or GGUF files"
            )
        raise PullFailed(
            "the repository has neither a GGUF file nor safetensors with a config.json"
        )
    if not engine_support.LOADS_MLX:
        raise PullFailed(engine_support.NO_MLX, details={"needs_mlx": True})
    files: list[tuple[FileRole, str]] = []
    weights = {p for p in paths if p.endswith(".safetensors") and "/" not in p}
    if any(p.startswith("model") for p in weights):
        # Mistral's repositories have the same weights in their own format too.
        weights = {p for p in weights if not p.startswith("consolidated")}
    for path in paths:
        if path in weights:
            files.append((FileRole.MODEL, path))
        elif _TEMPLATE_FILES.fullmatch(path):
            files.append((FileRole.TEMPLATE, path))
        elif "/" not in path and _TOKENIZER_FILES.fullmatch(path):
            files.append((FileRole.TOKENIZER, path))
        elif _CONFIG_FILES.fullmatch(path):
            files.append((FileRole.CONFIG, path))
    return FileSelection(format="mlx", files=tuple(files))
