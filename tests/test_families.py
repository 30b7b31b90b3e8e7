"""Each family against transformers' own models and configs, and against the GGUF library's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from checkpoints import GEMMA, LLAMA, random_tensors, save_folder, save_gguf
from models_random import LINEAR, LLAMA3, VARIANTS, random_checkpoint, random_model, variant_id
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from edgekit.models.checkpoint import open_checkpoint
from edgekit.models.errors import InputError
from edgekit.models.families import FAMILIES, Family, family_named, family_of
from edgekit.models.rope import find_llama3, llama3_factors, rope_factors
from edgekit.models.spec import LinearScaling, Llama3Scaling

variants = pytest.mark.parametrize("variant", VARIANTS, ids=variant_id)
Variant = tuple[str, dict[str, Any]]


@variants
def test_tensors_are_transformers_own_bit_for_bit(variant: Variant, tmp_path: Path) -> None:
    family, options = variant
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", family, **options))
    model = random_model(family, **{key: value for key, value in options.items() if key != "shard_bytes"})
    expected = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    assert checkpoint.tensors[0].name == "model.embed_tokens.weight"
    assert {tensor.name: tensor.shape for tensor in checkpoint.tensors} == {n: v.shape for n, v in expected.items()}
    for name, values in expected.items():
        read = checkpoint.read(name)
        assert read.dtype == np.float32
        assert np.array_equal(read, values)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_narrow_types_are_read_exactly(dtype: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", "qwen3", dtype=dtype))
    model = random_model("qwen3", dtype=dtype)
    for name, parameter in model.named_parameters():
        assert np.array_equal(checkpoint.read(name), parameter.detach().float().numpy())
    assert (
        checkpoint.source.dtype("model.norm.weight") == {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}[dtype]
    )
    assert checkpoint.stored_bytes == sum(p.numel() * p.element_size() for p in model.parameters())


@variants
def test_gguf_names_are_the_librarys(variant: Variant, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", variant[0], **variant[1]))
    architecture = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == checkpoint.spec.family)
    names = gguf.get_tensor_name_map(architecture, checkpoint.spec.layers)
    for tensor in checkpoint.tensors:
        assert tensor.gguf_name == names.get_name(tensor.name, (".weight", ".bias"))


@variants
def test_metadata_keys_are_the_librarys(variant: Variant, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", variant[0], **variant[1]))
    groups = (gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
    patterns = [value for group in groups for value in vars(group).values() if isinstance(value, str)]
    known = {pattern.replace("{arch}", checkpoint.spec.family) for pattern in patterns}
    assert set(family_named(checkpoint.spec.family).gguf_metadata(checkpoint.spec)) <= known


@variants
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_gguf_input_gives_the_checkpoint_back(variant: Variant, kind: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", variant[0], **variant[1]))
    again = open_checkpoint(save_gguf(tmp_path / "model.gguf", checkpoint, kind))
    assert again.tensors == checkpoint.tensors
    assert again.fingerprint == checkpoint.fingerprint
    assert again.spec.norm_eps == pytest.approx(checkpoint.spec.norm_eps, rel=1e-7)  # a GGUF holds it as float32
    assert {**vars(again.spec), "norm_eps": 0} == {**vars(checkpoint.spec), "norm_eps": 0}
    for tensor in checkpoint.tensors:
        values, read = checkpoint.read(tensor.name), again.read(tensor.name)
        if len(tensor.shape) == 2 and kind != "F32":
            values = torch.from_numpy(values).to({"F16": torch.float16, "BF16": torch.bfloat16}[kind]).float().numpy()
        tolerance = 1e-6 if tensor.offset else 0.0  # 1 + weight rounds to float32
        np.testing.assert_allclose(read, values, rtol=0, atol=tolerance)


@variants
def test_transformers_builds_the_same_model_from_the_gguf_config(variant: Variant, tmp_path: Path) -> None:
    family, options = variant
    model = random_model(family, **{key: value for key, value in options.items() if key != "shard_bytes"})
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "model", family, **options))
    again = open_checkpoint(save_gguf(tmp_path / "model.gguf", checkpoint))
    settings = dict(again.config)
    config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
    built = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    built.load_state_dict({t.name: torch.from_numpy(again.read(t.name)) for t in again.tensors}, strict=False)
    built.tie_weights()
    tokens = torch.randint(0, 4096, (1, min(96, again.spec.context)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(built(tokens).logits, model(tokens).logits, rtol=0, atol=2e-4)


def test_quantised_gguf_only_where_asked(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(save_folder(tmp_path / "model", LLAMA, random_tensors(LLAMA)))
    path = save_gguf(tmp_path / "model.gguf", checkpoint, "Q8_0")
    with pytest.raises(InputError, match=r"already quantised \(Q8_0"):
        open_checkpoint(path)
    quantised = open_checkpoint(path, quantised=True)
    assert quantised.source.dtype("model.layers.0.self_attn.q_proj.weight") == "Q8_0"
    for tensor in checkpoint.tensors:
        values = checkpoint.read(tensor.name)
        np.testing.assert_allclose(quantised.read(tensor.name), values, rtol=0, atol=np.abs(values).max() / 200)


# --- RoPE


@pytest.mark.parametrize(
    ("theta", "head_dim", "scaling"),
    [
        (500000.0, 128, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        (500000.0, 64, Llama3Scaling(32.0, 1.0, 4.0, 8192)),
        (10000.0, 16, Llama3Scaling(4.0, 1.0, 4.0, 64)),
        (10000.0, 32, Llama3Scaling(4.0, 2.0, 3.0, 100)),
    ],
)
def test_rope_factors_are_transformers_frequencies(theta: float, head_dim: int, scaling: Llama3Scaling) -> None:
    parameters = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }
    config = transformers.LlamaConfig(head_dim=head_dim, rope_parameters=parameters)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = theta ** -(np.arange(0, head_dim, 2) / head_dim)
    factors = llama3_factors(theta, head_dim, scaling)
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=1e-5)
    if (scaling.low_freq_factor, scaling.high_freq_factor) == (1.0, 4.0):
        context = int(scaling.original_context * scaling.factor)
        assert find_llama3(factors, theta, context) == scaling
    else:
        assert find_llama3(factors, theta, 400) is None


def test_only_llama3_has_rope_factors() -> None:
    family = family_named("llama")
    assert rope_factors(family.read_spec(LLAMA)) is None
    assert rope_factors(family.read_spec({**LLAMA, "rope_scaling": LINEAR})) is None


@pytest.mark.parametrize("scaling", [LINEAR, LLAMA3], ids=["linear", "llama3"])
def test_old_and_new_rope_configs_mean_the_same(scaling: dict[str, Any]) -> None:
    family = family_named("llama")
    old = {key: value for key, value in scaling.items() if key != "rope_type"} | {"type": scaling["rope_type"]}
    new = {"rope_parameters": {**scaling, "rope_theta": 5e5}}
    specs = [
        family.read_spec({**LLAMA, **rope})
        for rope in (new, {"rope_theta": 5e5, "rope_scaling": scaling}, {"rope_theta": 5e5, "rope_scaling": old})
    ]
    assert specs[0] == specs[1] == specs[2]
    assert specs[0].rope.theta == 5e5
    assert isinstance(specs[0].rope.scaling, LinearScaling | Llama3Scaling)


def test_old_and_new_gemma_configs_mean_the_same() -> None:
    family = family_named("gemma3")
    old = {"rope_theta": 2e6, "rope_local_base_freq": 3e4, "rope_scaling": LINEAR, "sliding_window_pattern": 2}
    new = {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {"rope_theta": 2e6, **LINEAR},
            "sliding_attention": {"rope_theta": 3e4, "rope_type": "default"},
        },
    }
    spec = family.read_spec({**GEMMA, **old})
    assert spec == family.read_spec({**GEMMA, **new})
    assert spec.sliding == (True, False)
    assert (spec.rope.theta, spec.rope.local_theta, spec.rope.scaling) == (2e6, 3e4, LinearScaling(2.0))


def test_published_gemma_config_with_transformers_defaults() -> None:
    """What google/gemma-3-4b-it leaves out of its text_config is what transformers' class fills in."""
    published = {
        "model_type": "gemma3_text",
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    filled = json.loads(transformers.Gemma3TextConfig(**published).to_json_string(use_diff=False))
    family = family_named("gemma3")
    assert family.read_spec(published) == family.read_spec(filled)
    assert family.read_spec(published).sliding == tuple((layer + 1) % 6 != 0 for layer in range(34))


# --- windows


@pytest.mark.parametrize(
    ("config", "context"),
    [
        ({"model_type": "mistral", "sliding_window": 48}, 48),
        ({"model_type": "mistral", "sliding_window": None}, 128),
        ({"model_type": "mistral"}, 128),  # transformers' default window of 4096 is longer than this context
        ({"model_type": "llama", "sliding_window": 48}, 128),  # a Llama has none
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}, 32),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}, 128),
        ({"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 32}, 128),
        ({"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0}, 32),
    ],
)
def test_a_window_that_gguf_cannot_express_caps_the_context(config: dict[str, Any], context: int) -> None:
    config = {**LLAMA, "head_dim": 8, **config}
    assert family_of(config).read_spec(config).context == context


def test_the_capped_context_is_told(tmp_path: Path) -> None:
    config = {**LLAMA, "model_type": "mistral", "sliding_window": 48}
    checkpoint = open_checkpoint(save_folder(tmp_path, config, random_tensors(config)))
    assert any("48 tokens, not 128" in note for note in checkpoint.notes)


# --- per-layer counts


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_counts_are_scalars_where_layers_agree_and_lists_otherwise(family: Family, tmp_path: Path) -> None:
    config = {**GEMMA, "model_type": (*family.model_types, "llama")[0]}
    metadata = family.gguf_metadata(family.read_spec(config))
    assert metadata[f"{family.name}.attention.head_count"] == 4
    assert metadata[f"{family.name}.feed_forward_length"] == 64
    config |= {"num_attention_heads": [4, 2], "num_key_value_heads": [2, 1], "intermediate_size": [64, 96]}
    spec = family.read_spec(config)
    assert spec.family == ("deci" if family.name in ("llama", "qwen2", "deci") else family.name)
    metadata = family_named(spec.family).gguf_metadata(spec)
    assert metadata[f"{spec.family}.attention.head_count"] == [4, 2]
    assert metadata[f"{spec.family}.attention.head_count_kv"] == [2, 1]
    shapes = {tensor.name: tensor.shape for tensor in family.tensors(spec)}
    assert shapes["model.layers.1.self_attn.q_proj.weight"] == (16, 32)
    assert shapes["model.layers.1.mlp.down_proj.weight"] == (32, 96)
    checkpoint = open_checkpoint(save_folder(tmp_path / "model", config, random_tensors(config)))
    assert open_checkpoint(save_gguf(tmp_path / "model.gguf", checkpoint)).tensors == checkpoint.tensors


# --- what is refused, by name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mixtral"}, "'mixtral' is not supported: edgekit knows llama, mistral, qwen2"),
        ({"model_type": None}, "None is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope type 'yarn' is not supported"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 2.0}}, "rope type 'longrope'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic'"),
        ({"model_type": "qwen2", "rope_parameters": LLAMA3}, "rope type 'llama3'"),
        ({"rope_scaling": {"type": "linear"}}, "factor is None"),
        ({"rope_scaling": {"type": "linear", "factor": -1}}, "factor is -1"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear', not an object"),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "is not below high_freq_factor"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_theta": float("nan")}, "rope_theta is nan"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": 33}, "33 is not a multiple of num_attention_heads 4"),
        ({"hidden_size": 32.0}, "hidden_size is 32.0, not an integer"),
        ({"hidden_size": True}, "hidden_size is True, not an integer"),
        ({"hidden_size": 1 << 40}, "not an integer from 1 to"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_attention_heads": [4, 4, 4]}, "num_attention_heads has 3 entries for 2 layers"),
        ({"num_attention_heads": [4, "4"]}, "num_attention_heads is '4'"),
        ({"num_key_value_heads": 3}, "4 is not a multiple of num_key_value_heads 3"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is 0"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is True"),
    ],
)
def test_refused_configs(change: dict[str, Any], message: str) -> None:
    config = {**LLAMA, **change}
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        family_of(config).read_spec(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_pre_attn_scalar": 9}, "query_pre_attn_scalar is 9, but .* computed with 8"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ({"layer_types": ["full_attention"]}, "layer_types must have 2 entries"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "each 'full_attention' or"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"final_logit_softcapping": -1}, "final_logit_softcapping is -1"),
        ({"rope_parameters": {"sliding_attention": LINEAR}}, "the sliding layers' RoPE is scaled"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope type 'yarn'"),
    ],
)
def test_refused_gemma_configs(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        family_named("gemma3").read_spec({**GEMMA, **change})
