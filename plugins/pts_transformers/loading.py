"""Loads a model and its tokenizer; whatever is wrong with them becomes one clear line."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from huggingface_hub import errors as hub
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from pts_core.errors import PtsError, UsageError
from pts_transformers.backend import TokenizerBackend, TransformersBackend
from pts_transformers.memory import out_of_memory

_NO_TOKENIZER = "{} has no tokenizer: add the model's tokenizer.json to it"


def load_backend(
    model: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    gguf_file: str | None = None,
    revision: str | None = None,
    max_batch: int | None = None,
    memory: float | None = None,
    weights: bool = True,
) -> TokenizerBackend:
    """The backend of a model id, a folder or a .gguf file; see pts_transformers.load.

    Raises UsageError for what cannot be meant (a device that is not here, a model that does not
    exist) and PtsError for what cannot be loaded.
    """
    if max_batch is not None and max_batch < 1:
        raise UsageError(f"--backend.max_batch must be at least 1, not {max_batch}")
    if memory is not None and not memory > 0:
        raise UsageError(f"--backend.memory is in GiB and must be above 0, not {memory}")
    place = find_device(device)
    source = Path(model)
    if gguf_file is None and source.suffix == ".gguf" and source.is_file():
        model, gguf_file = str(source.parent), source.name
    _check_source(model, gguf_file)
    # Never code from the model's repository; unset, transformers would ask on the terminal.
    options = {"gguf_file": gguf_file, "revision": revision, "trust_remote_code": False}
    with _quiet():
        with _explained("configuration", model):
            config = AutoConfig.from_pretrained(model, **options)
        _check_architecture(config, model)
        with _explained("tokenizer", model):
            tokenizer = AutoTokenizer.from_pretrained(model, **options)
        _check_tokenizer(tokenizer, model)
        if not weights:
            return TokenizerBackend(config, tokenizer, model_id=gguf_file or _name(model))
        network = _load_weights(model, config, options, place, choose_dtype(dtype, place, config))
    return TransformersBackend(
        network,
        tokenizer,
        model_id=gguf_file or _name(model),
        max_batch=max_batch or choose_batch(config, network.dtype),
        memory=None if memory is None else round(memory * 2**30),
    )


def find_device(name: str) -> torch.device:
    """The device of a name; auto is cuda, else mps, else cpu. Raises UsageError if not here."""
    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", name):
        raise UsageError(f"device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    device = torch.device(name)
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    count = {"cpu": 1, "mps": int(mps), "cuda": cuda}[device.type]
    if (device.index or 0) >= count:
        found = f"torch {torch.__version__} finds {count} {device.type} devices here"
        raise UsageError(f"device {name}: {found}; use auto")
    return device


def choose_dtype(name: str, device: torch.device, config: Any) -> torch.dtype:
    """The checkpoint's own type where `name` is auto; on a CPU only one that it multiplies."""
    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    own = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    if own == torch.float32:
        return torch.float32
    if device.type == "cpu":
        exact = own == torch.float16 or not _multiplies_bfloat16()
        return torch.float32 if exact else torch.bfloat16
    if own == torch.float16:
        return torch.float16
    # A GGUF file names no type: half precision, as is usual on such devices.
    bfloat16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if bfloat16 else torch.float16


def _multiplies_bfloat16() -> bool:
    """Does the processor itself multiply bfloat16 matrices? Where it doesn't, float32 is faster."""
    features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, feature, bool)() for feature in features)


def choose_batch(config: Any, dtype: torch.dtype) -> int:
    """How many rollouts run together by default: as pts_transformers.load says.

    It depends on the model alone, not on free memory, so that half precision reproduces too.
    """
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", 0)
    if not heads:
        return 64
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    row: int = 1024 * 2 * text.num_hidden_layers * heads * size * dtype.itemsize
    return min(256, max(16, 2**32 // row))


def _load_weights(
    model: str, config: Any, options: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Any:
    message = (
        f"{model} does not fit into the memory of {device} as {dtype}: "
        "use a smaller model, the dtype bfloat16 or another device"
    )
    # The bar that unpacks a GGUF file obeys no switch; it looks up sys.stderr when it starts.
    hush = redirect_stderr(io.StringIO()) if options["gguf_file"] else nullcontext()
    with _explained("weights", model), out_of_memory(message), hush:
        network, report = AutoModelForCausalLM.from_pretrained(
            model,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
        # transformers goes on with random numbers in the place of these.
        missing = sorted(report["missing_keys"])
        misshapen = sorted(key for key, *_ in report["mismatched_keys"])
        if missing or misshapen:
            problem = "lack" if missing else "do not have the shape that config.json gives to"
            raise PtsError(
                f"the weights of {model} {problem} {(missing or misshapen)[0]}: "
                "they are incomplete or of another model; download them again"
            )
        return network.to(device).requires_grad_(False)


def _check_source(model: str, gguf_file: str | None) -> None:
    """What is wrong with a folder is said before transformers takes it for a model id."""
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_file():
            raise UsageError(f"{model} is a file: give the model's folder, id or .gguf file")
        if folder.is_absolute() or model.startswith((".", "~")):
            raise UsageError(f"there is no folder {model}: give a folder with a model, or its id")
        return
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise UsageError(f"there is no file {gguf_file} in {model}: see --backend.gguf_file")
        return
    if not (folder / "config.json").is_file():
        ggufs = sorted(path.name for path in folder.glob("*.gguf"))
        hint = f"use --backend.gguf_file {ggufs[0]}" if ggufs else "is it a model's folder?"
        raise PtsError(f"{model} has no config.json: {hint}")
    if not any(path.suffix in (".safetensors", ".bin") for path in folder.iterdir()):
        raise PtsError(f"{model} has no weights (*.safetensors): is the download complete?")


def _check_architecture(config: Any, model: str) -> None:
    kind = config.model_type
    # Encoders such as BERT load as "causal" models that see the future, with only a warning.
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or encoder:
        raise PtsError(
            f"{model} is a {kind} model, which is not a causal language model: it cannot "
            "generate text from left to right; choose another model"
        )


def _check_tokenizer(tokenizer: Any, model: str) -> None:
    # Without its files transformers builds an empty tokenizer of the model's usual class.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise PtsError(_NO_TOKENIZER.format(model))


def _name(model: str) -> str:
    """The id of a hub model; of a folder its name alone, for records travel to other machines."""
    return Path(model).resolve().name if Path(model).is_dir() else model


@contextmanager
def _explained(what: str, model: str) -> Iterator[None]:
    """Turns whatever loading raises into one line: which part, of which model, what to do."""
    try:
        yield
    except (PtsError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers, tokenizers, safetensors, gguf: each has its own
        raise _explain(error, what, model) from error


def _explain(error: Exception, what: str, model: str) -> PtsError:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) and cause not in causes:
        causes.append(cause)

    def is_a(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    reason = " ".join(str(error).split()).rstrip(".")
    if is_a(hub.GatedRepoError):
        return PtsError(f"{model} needs permission: ask for it at hf.co/{model}, 'hf auth login'")
    if is_a(hub.RepositoryNotFoundError, hub.HFValidationError):
        return UsageError(
            f"{model} is neither a folder here nor a model on the Hub: check its name "
            "(a private model needs 'hf auth login')"
        )
    if is_a(hub.RevisionNotFoundError):
        return UsageError(f"{model} has no such revision: see --backend.revision")
    if is_a(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError):
        return PtsError(
            f"{model} is not on this machine and the Hub cannot be reached: "
            "check its name and the network, or give the folder of a model"
        )
    if isinstance(error, ImportError):
        return PtsError(f"the {what} of {model} needs a package that is not here: {reason[:200]}")
    if "custom code" in reason:
        return PtsError(f"{model} needs code from its repository, which is never run: use another")
    if "does not recognize this architecture" in reason:
        return PtsError(
            f"{model} is of a kind unknown to transformers: pip install -U transformers"
        )
    if what == "tokenizer" and "instantiate the backend tokenizer" in reason:
        return PtsError(_NO_TOKENIZER.format(model))
    return PtsError(
        f"cannot load the {what} of {model} ({type(error).__name__}: {reason[:200]}): "
        "the files may be damaged or incomplete; download them again"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the libraries print while loading, except the bar of a download."""
    logs = (transformers.utils.logging, huggingface_hub.utils.logging)
    levels = [log.get_verbosity() for log in logs]
    bars = transformers.utils.logging.is_progress_bar_enabled()
    for log in logs:
        log.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.set_verbosity(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
