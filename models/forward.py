"""The reference forward pass: transformers' own class in float32, its parts, and KL with weights replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.models.checkpoint import Checkpoint
from edgekit.models.errors import InputError, MissingExtra
from edgekit.models.spec import ModelSpec

if TYPE_CHECKING:
    import torch

ROW_BLOCK = 64  # rows of logits alive at once: 64 MiB where the vocabulary has 262144 tokens


@dataclass(frozen=True)
class Parts:
    """The modules that every decoder-only family has, and what lies between them and a stored tensor."""

    embedding: Any  # torch.nn.Embedding; gemma's multiplies its output by a constant
    layers: tuple[Any, ...]  # each called as layer(hidden (B, T, D), **what the model passes) -> hidden
    norm: Any
    head: Any  # torch.nn.Linear without bias; shares the embedding's weight where tied
    embedding_scale: float
    softcap: float | None  # logits = softcap * tanh(raw / softcap)


def load_model(checkpoint: Checkpoint) -> Any:
    """transformers' model of the checkpoint's family on the CPU: float32, eval mode, no gradients for parameters.

    The class comes from `checkpoint.config`, the values from `checkpoint.read`: nothing is downloaded, no code but
    transformers' own is run, and no weight is initialised only to be overwritten. Raises MissingExtra without torch and
    transformers, InputError where the checkpoint's tensors are not the class's. A pruned model, whose layers can have
    counts that no config of the class expresses, is built with the largest and its projections are then replaced.
    """
    torch, transformers = _require_torch()
    settings = dict(checkpoint.config) | _class_counts(checkpoint.spec)
    kind = settings.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **settings)
    with _large_tensors_on_meta():
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation="sdpa", trust_remote_code=False
        )
        _resize_layers(model, checkpoint.spec)
    model.eval().requires_grad_(False)
    wanted = dict(model.named_parameters())  # a tied head is listed once, under the embedding's name
    for spec in checkpoint.tensors:
        name = parameter_name(spec.name)
        if name not in wanted:
            raise InputError(
                f"{checkpoint.path}: transformers' {kind} has no tensor {spec.name}: is config.json the right one?"
            )
        parameter = wanted.pop(name)
        values = checkpoint.read(spec.name)
        if tuple(parameter.shape) != values.shape:
            raise InputError(
                f"{checkpoint.path}: {spec.name} is {values.shape}, config.json says {tuple(parameter.shape)}"
            )
        # copied into torch's own memory, whose alignment never varies: the last bits of a matmul can depend on it
        owned = torch.empty(values.shape, dtype=torch.float32)
        owned.copy_(torch.from_numpy(np.require(values, requirements=["W"])))
        _assign(model, name, owned)
    if wanted:
        raise InputError(f"{checkpoint.path}: tensor {sorted(wanted)[0]} is missing: download the checkpoint again")
    model.tie_weights()
    return model


def _class_counts(spec: ModelSpec) -> dict[str, int]:
    """The largest counts, as a config has them; the heads raised to a divisor of `hidden`: Llama's class wants one."""
    heads = max(spec.heads)
    divisors = (count for count in range(heads, spec.hidden + 1) if spec.hidden % count == 0)
    return {
        "num_attention_heads": next(divisors, heads),
        "num_key_value_heads": max(spec.kv_heads),
        "intermediate_size": max(spec.ffn),
        "head_dim": spec.head_dim,
    }


def _resize_layers(model: Any, spec: ModelSpec) -> None:
    """Give every layer whose counts are not the config's projections of its own size, without values yet."""
    import torch

    for index, layer in enumerate(parts(model).layers):
        attention, mlp = layer.self_attn, layer.mlp
        query, key = spec.heads[index] * spec.head_dim, spec.kv_heads[index] * spec.head_dim
        sizes = [(attention, "q_proj", spec.hidden, query), (attention, "o_proj", query, spec.hidden)]
        sizes += [(attention, name, spec.hidden, key) for name in ("k_proj", "v_proj")]
        sizes += [(mlp, name, spec.hidden, spec.ffn[index]) for name in ("gate_proj", "up_proj")]
        sizes += [(mlp, "down_proj", spec.ffn[index], spec.hidden)]
        for module, name, columns, rows in sizes:
            linear = getattr(module, name)
            if (linear.in_features, linear.out_features) != (columns, rows):
                setattr(module, name, torch.nn.Linear(columns, rows, bias=linear.bias is not None, dtype=torch.float32))
        attention.num_key_value_groups = spec.heads[index] // spec.kv_heads[index]


def parameter_name(tensor: str) -> str:
    """A stored tensor's name in the text-only model: multimodal checkpoints nest the same names one level deeper."""
    return tensor.replace("language_model.model.", "model.").replace("language_model.", "")


def parts(model: Any) -> Parts:
    """Where the model's embedding, layers, final norm and head are."""
    decoder, config = model.get_decoder(), model.config
    embedding = decoder.embed_tokens
    return Parts(
        embedding=embedding,
        layers=tuple(decoder.layers[: config.num_hidden_layers]),
        norm=decoder.norm,
        head=model.lm_head,
        embedding_scale=float(getattr(embedding, "embed_scale", 1.0)),
        softcap=getattr(config, "final_logit_softcapping", None),
    )


@contextmanager
def quick_matmul() -> Iterator[None]:
    """Float32 matmuls by oneDNN instead of MKL, on CPUs where oneDNN keeps float32's precision; also a decorator.

    torch hands float32 to oneDNN only where bfloat16 would be good enough too. CPUs with bfloat16 matrix units then
    round to it, and keep MKL here; on other AVX-512 CPUs it is float32 all the same, and twice as fast on AMD's.
    """
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if _onednn_keeps_float32() else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _onednn_keeps_float32() -> bool:
    import torch

    before = torch.get_float32_matmul_precision()
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    try:
        torch.set_float32_matmul_precision("medium")
        for rows, inner, columns in ((64, 640, 1024), (512, 512, 512), (640, 256, 640)):
            a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
            exact = a.double() @ b.double()
            worst = max(worst, float((a @ b - exact).norm() / exact.norm()))
    finally:
        torch.set_float32_matmul_precision(before)
    return worst < 1e-5  # float32 has 1e-6 here, bfloat16 3e-3


@quick_matmul()
def hidden_states(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The head's input (B, T, D) float32, the final norm included, for token ids (B, T)."""
    import torch

    with torch.no_grad():
        result: torch.Tensor = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    return result


@quick_matmul()
def head_logits(
    hidden: torch.Tensor, weight: torch.Tensor, softcap: float | None, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Logits (R, vocab) of hidden states (R, D), the final softcap included; in the memory of `out` where given."""
    import torch

    logits = torch.mm(hidden, weight.T, out=out)
    if softcap is not None:
        logits.div_(softcap).tanh_().mul_(softcap)
    return logits


def reference_logits(model: Any, window: NDArray[np.integer], first: int) -> NDArray[np.float32]:
    """The logits (len(window) - first, vocab) float32 of positions `first`.. of one window of token ids (T,)."""
    import torch

    part = parts(model)
    with torch.no_grad():
        hidden = hidden_states(model, torch.as_tensor(np.asarray(window, dtype=np.int64))[None])[0, first:]
        logits: NDArray[np.float32] = head_logits(hidden, part.head.weight, part.softcap).numpy()
    return logits


@contextmanager
def replaced(
    model: Any,
    tensors: Iterable[tuple[str, NDArray[np.float32]]],
    originals: Callable[[str], NDArray[np.float32]],
) -> Iterator[None]:
    """The model with stored tensors (Hugging Face name, values) replaced until the block ends; a tied head follows.

    The parameters' own memory is overwritten, one tensor at a time, and filled again from `originals` (a checkpoint's
    `read`), so that the model is never in memory twice. Raises KeyError for a name that the model does not have.
    """
    parameters = dict(model.named_parameters())
    touched: list[str] = []
    try:
        for name, values in tensors:
            parameter = parameters[parameter_name(name)]
            if tuple(parameter.shape) != values.shape:
                raise InputError(f"{name} is {tuple(parameter.shape)}, its replacement {values.shape}")
            touched.append(name)
            _fill(parameter, values)
            del values  # an embedding's are large: gone before the next are made
        yield
    finally:
        for name in touched:
            _fill(parameters[parameter_name(name)], originals(name))


def _fill(parameter: torch.Tensor, values: NDArray[np.float32]) -> None:
    import torch

    parameter.data.copy_(torch.from_numpy(np.require(values, dtype=np.float32, requirements=["C", "W"])))


class HeldOut:
    """Windows on which a changed model is compared with the one that it was.

    Construction runs the unchanged model and keeps its logits of the scored positions as float16 below each row's
    largest (2 bytes x tokens x vocab), so that `kld` costs one forward pass.
    """

    def __init__(self, model: Any, windows: NDArray[np.integer], *, first: int) -> None:
        """`windows` (W, T) token ids; positions first..T-1 of each are scored, T - first per window."""
        import torch

        self._model = model
        self._ids = torch.as_tensor(np.asarray(windows, dtype=np.int64))
        self._first = first
        self.tokens = self._ids.shape[0] * (self._ids.shape[1] - first)
        self._reference: list[tuple[torch.Tensor, torch.Tensor]] = []  # (logits below the row's top, log of their sum)
        for logits in self._logit_blocks():
            logits.sub_(logits.amax(dim=1, keepdim=True))
            kept = logits.half()
            self._reference.append((kept, torch.logsumexp(kept.float(), dim=1)))

    def kld(self) -> float:
        """Mean KL(unchanged || current) in nats per scored token; use it inside `replaced`."""
        return float(self.token_klds().mean())

    def token_klds(self) -> NDArray[np.float64]:
        """(tokens,) the KL of each scored token."""
        import torch

        klds = []
        for (kept, log_sum), logits in zip(self._reference, self._logit_blocks(), strict=True):
            log_sum_now = torch.logsumexp(logits, dim=1)
            log_p = kept.float().sub_(log_sum[:, None])
            difference = logits.sub_(log_sum_now[:, None]).sub_(log_p).neg_()  # log p - log q
            klds.append(log_p.exp_().mul_(difference).sum(dim=1).double().numpy())
        return np.concatenate(klds)

    def _logit_blocks(self) -> Iterator[torch.Tensor]:
        import torch

        part = parts(self._model)
        with torch.no_grad():
            hidden = hidden_states(self._model, self._ids)[:, self._first :].reshape(self.tokens, -1)
            for start in range(0, self.tokens, ROW_BLOCK):
                yield head_logits(hidden[start : start + ROW_BLOCK], part.head.weight, part.softcap)


def _require_torch() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "quantize") from error
    return torch, transformers


@contextmanager
def _large_tensors_on_meta() -> Iterator[None]:
    """Weights, which modules make with torch.empty, hold no memory; buffers, which they compute, are real."""
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func is torch.empty:
                kwargs["device"] = "meta"
            return func(*args, **kwargs)

    with EmptyOnMeta():
        yield


def _assign(model: Any, name: str, values: torch.Tensor) -> None:
    import torch

    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(values, requires_grad=False))
