"""Parsing `config.json`: accepted settings, and errors for the rest."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_gptoss.errors import ConfigError
from mlx_gptoss.format.config import (
    MXFP4,
    ModelConfig,
    Quantization,
    RopeScaling,
    parse_quantization,
)

YARN = {
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "rope_type": "yarn",
    "truncate": False,
}


def published(**changes: Any) -> dict[str, Any]:
    """The `config.json` of openai/gpt-oss-20b; a value of `...` removes a key."""
    raw: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": 4,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 2880,
        "layer_types": ["sliding_attention", "full_attention"] * 12,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_hidden_layers": 24,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": 1e-05,
        "rope_scaling": YARN,
        "rope_theta": 150000,
        "router_aux_loss_coef": 0.9,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "transformers_version": "4.55.0.dev0",
        "use_cache": True,
        "vocab_size": 201088,
    }
    raw |= changes
    return {key: value for key, value in raw.items() if value is not ...}


ORIGINAL = {
    "num_hidden_layers": 24,
    "num_experts": 32,
    "experts_per_token": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "swiglu_limit": 7.0,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "sliding_window": 128,
    "initial_context_length": 4096,
    "rope_theta": 150000,
    "rope_scaling_factor": 32.0,
    "rope_ntk_alpha": 1,
    "rope_ntk_beta": 32,
}

GPT_OSS_20B = ModelConfig(
    num_hidden_layers=24,
    hidden_size=2880,
    intermediate_size=2880,
    head_dim=64,
    num_attention_heads=64,
    num_key_value_heads=8,
    num_local_experts=32,
    num_experts_per_tok=4,
    vocab_size=201088,
    sliding_window=128,
    layer_types=("sliding_attention", "full_attention") * 12,
    rope_theta=150000.0,
    rope_scaling=RopeScaling("yarn", 32.0, 4096, 32.0, 1.0, truncate=False),
    rms_norm_eps=1e-5,
    swiglu_limit=7.0,
    max_position_embeddings=131072,
    eos_token_ids=(200002,),
)


def test_published_config_is_read() -> None:
    assert ModelConfig.from_dict(published(), strict=True) == GPT_OSS_20B


def test_rope_parameters_of_transformers_5_mean_the_same() -> None:
    raw = published(
        rope_scaling=...,
        rope_theta=...,
        rope_parameters=YARN | {"rope_theta": 150000},
        dtype="bfloat16",
    )
    assert ModelConfig.from_dict(raw, strict=True) == GPT_OSS_20B


def test_original_config_means_the_same_but_has_no_eos() -> None:
    config = ModelConfig.from_dict(ORIGINAL, strict=True)
    assert config == ModelConfig.from_dict(published(eos_token_id=...))


def test_scaling_of_null_or_default_is_plain_rope() -> None:
    plain = [
        published(rope_scaling=None),
        published(rope_scaling={"rope_type": "default"}),
        published(rope_scaling=..., rope_parameters={"rope_type": "default"}),
        published(rope_scaling=..., rope_scaling_factor=1.0),
    ]
    scalings = [ModelConfig.from_dict(raw).rope_scaling for raw in plain]
    assert scalings == [None] * len(plain)


def test_missing_truncate_rounds_as_transformers_does() -> None:
    yarn = {key: value for key, value in YARN.items() if key != "truncate"}
    scaling = ModelConfig.from_dict(published(rope_scaling=yarn)).rope_scaling
    assert scaling == RopeScaling("yarn", 32.0, 4096, 32.0, 1.0, truncate=True)


def test_lists_of_stop_tokens_are_read() -> None:
    config = ModelConfig.from_dict(published(eos_token_id=[200002, 199999]))
    assert config.eos_token_ids == (200002, 199999)


def test_model_without_sliding_layers_needs_no_window() -> None:
    raw = published(layer_types=["full_attention"] * 24, sliding_window=None)
    assert ModelConfig.from_dict(raw).sliding_window == 128


def test_unknown_keys_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    raw = published(unsloth_version="2026.1", unsloth_fixed=True)
    with caplog.at_level(logging.WARNING, logger="mlx_gptoss"):
        config = ModelConfig.from_dict(raw)
    assert config == GPT_OSS_20B
    assert caplog.messages == [
        "`config.json` has unknown keys, ignored: `unsloth_fixed`, `unsloth_version`"
    ]


def test_unknown_keys_are_an_error_when_strict() -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(published(unsloth_version="2026.1"), strict=True)
    assert str(error.value) == (
        "`config.json` has unknown keys `unsloth_version`: remove them, or load "
        "without strict"
    )


PARAMETERS = YARN | {"rope_theta": 150000}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": PARAMETERS},
        {"rope_parameters": YARN, "rope_scaling": None},
        {"rope_scaling": PARAMETERS, "rope_scaling_factor": 32.0},
        {"original_max_position_embeddings": 4096, "rope_ntk_beta": 32},
        {"rope_scaling": YARN | {"rope_type": ..., "type": "yarn"}},
    ],
)
def test_rotary_settings_said_twice_may_agree(changes: dict[str, Any]) -> None:
    raw = published(**changes)
    raw["rope_scaling"] = raw["rope_scaling"] and {
        key: value for key, value in raw["rope_scaling"].items() if value is not ...
    }
    assert ModelConfig.from_dict(raw, strict=True) == GPT_OSS_20B


DISAGREEING = [
    (
        {"rope_parameters": PARAMETERS | {"rope_theta": 10000}},
        "`rope_parameters.rope_theta` = 10000 but `rope_theta` = 150000",
    ),
    (
        {"rope_parameters": PARAMETERS | {"factor": 16.0}},
        "`rope_parameters.factor` = 16.0 but `rope_scaling.factor` = 32.0",
    ),
    (
        {"rope_parameters": PARAMETERS | {"truncate": True}},
        "`rope_parameters.truncate` = True but `rope_scaling.truncate` = False",
    ),
    (
        {"rope_parameters": {"rope_type": "default", "rope_theta": 150000}},
        "`rope_parameters.rope_type` = 'default' but `rope_scaling.rope_type` = 'yarn'",
    ),
    (
        {"rope_scaling": YARN | {"type": "linear"}},
        "`rope_scaling.rope_type` = 'yarn' but `rope_scaling.type` = 'linear'",
    ),
    (
        {"rope_scaling": PARAMETERS | {"rope_theta": 10000}},
        "`rope_scaling.rope_theta` = 10000 but `rope_theta` = 150000",
    ),
    (
        {"rope_scaling_factor": 16.0},
        "`rope_scaling.factor` = 32.0 but `rope_scaling_factor` = 16.0",
    ),
    (
        {"original_max_position_embeddings": 8192},
        "original_max_position_embeddings` = 4096 but `original_max_position_embe",
    ),
]


@pytest.mark.parametrize(("changes", "says"), DISAGREEING)
def test_rotary_settings_said_twice_must_agree(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(published(**changes))
    assert says in str(error.value)
    assert str(error.value).endswith("both mean the same, correct one of them")


UNSUPPORTED = [
    ({"model_type": "llama"}, "`model_type` = 'llama'"),
    ({"hidden_act": "gelu"}, "`hidden_act` = 'gelu'"),
    ({"attention_bias": False}, "`attention_bias` = False"),
    ({"swiglu_alpha": 1.0}, "`swiglu_alpha` = 1.0"),
    ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor` = 0.5"),
    ({"rope_scaling": YARN | {"rope_type": "longrope"}}, "`rope_scaling.rope_type`"),
    ({"rope_scaling": {"factor": 2.0}}, "`rope_scaling.rope_type` = None"),
    ({"rope_scaling": YARN | {"mscale": 1.2}}, "`rope_scaling.mscale` = 1.2"),
    ({"rope_scaling": YARN | {"mystery": 1}}, "`rope_scaling.mystery`"),
    ({"rope_scaling": YARN | {"factor": 0}}, "`rope_scaling.factor` = 0"),
    ({"rope_scaling": YARN | {"truncate": "no"}}, "`rope_scaling.truncate` = 'no'"),
    ({"rope_scaling": YARN | {"beta_fast": 0.5}}, "`rope_scaling.beta_fast` = 0.5"),
    ({"rope_scaling": "yarn"}, "`rope_scaling` = 'yarn', expected an object"),
    (
        {"rope_scaling": YARN | {"original_max_position_embeddings": -1}},
        "`rope_scaling.original_max_position_embeddings` = -1",
    ),
    (
        {"rope_parameters": {"full_attention": YARN, "sliding_attention": YARN}},
        "`rope_parameters.rope_type` = None",
    ),
    ({"layer_types": ["full_attention"]}, "1 `layer_types` for 24"),
    ({"layer_types": ["chunked"] * 24}, "'chunked' in `layer_types`"),
    ({"layer_types": "full_attention"}, "expected a list"),
    ({"sliding_window": None}, "has no `sliding_window`"),
    ({"hidden_size": -2880}, "`hidden_size` = -2880"),
    ({"hidden_size": 0}, "`hidden_size` = 0"),
    ({"hidden_size": 2880.0}, "`hidden_size` = 2880.0"),
    ({"hidden_size": True}, "`hidden_size` = True"),
    ({"hidden_size": "2880"}, "`hidden_size` = '2880'"),
    ({"hidden_size": ...}, "has no `hidden_size`"),
    ({"vocab_size": 1 << 60}, "`vocab_size` = 1152921504606846976"),
    ({"num_hidden_layers": 10**9, "layer_types": None}, "`num_hidden_layers`"),
    ({"head_dim": 63}, "`head_dim` = 63, expected an even number"),
    ({"num_attention_heads": 60}, "`num_attention_heads` = 60, not a multiple"),
    ({"num_local_experts": 3}, "`num_experts_per_tok` = 4, more than"),
    ({"num_experts": 128}, "`num_local_experts` = 32 but `num_experts` = 128"),
    ({"eos_token_id": -1}, "`eos_token_id` = -1"),
    ({"eos_token_id": 300000}, "`eos_token_id` 300000, outside `vocab_size`"),
    ({"rms_norm_eps": 0}, "`rms_norm_eps` = 0"),
    ({"rms_norm_eps": float("nan")}, "`rms_norm_eps` = nan"),
    ({"rope_theta": float("inf")}, "`rope_theta` = inf"),
    ({"rope_theta": 1}, "`rope_theta` = 1.0, expected above 1"),
    ({"rope_scaling": YARN | {"factor": 0.5}}, "`rope_scaling.factor` = 0.5"),
    ({"rope_theta": 10**400}, "`rope_theta` = 1000"),
    ({"swiglu_limit": "7"}, "`swiglu_limit` = '7'"),
    (
        {"hidden_size": 1 << 20, "intermediate_size": 1 << 20},
        "describes 2.53e+15 parameters",
    ),
]


@pytest.mark.parametrize(
    ("changes", "says"), UNSUPPORTED, ids=[says for _, says in UNSUPPORTED]
)
def test_unsupported_and_impossible_values_are_named(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(published(**changes))
    assert says in str(error.value)


def test_message_says_what_where_and_what_to_do() -> None:
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(published(hidden_act="gelu"))
    assert str(error.value) == (
        "`config.json` has `hidden_act` = 'gelu', but gpt-oss is computed with 'silu' "
        "only: use a gpt-oss checkpoint"
    )


def test_published_quantization_config_leaves_it_to_the_tensors() -> None:
    assert parse_quantization(published()) == (None, {})


def test_mlx_quantization_is_read_by_module() -> None:
    experts = "model.layers.0.mlp.experts.gate_proj"
    settings = {
        "group_size": 64,
        "bits": 8,
        "lm_head": True,
        "model.embed_tokens": False,
        experts: {"group_size": 32, "bits": 4, "mode": "mxfp4"},
    }
    q8 = Quantization(bits=8, group_size=64, mode="affine")
    expected = (q8, {"lm_head": q8, "model.embed_tokens": None, experts: MXFP4})
    both = {"quantization": settings, "quantization_config": settings}
    assert parse_quantization(both) == expected
    assert parse_quantization({"quantization_config": settings}) == expected


BAD_QUANTIZATION = [
    ({"quantization": "q4"}, "`quantization` = 'q4', expected an object"),
    ({"quantization": {"bits": 7, "group_size": 64}}, "bits 7 and group_size 64"),
    ({"quantization": {"bits": 4, "group_size": 48}}, "bits 4 and group_size 48"),
    (
        {"quantization": {"bits": 8, "group_size": 32, "mode": "mxfp2"}},
        "in mode 'mxfp2'",
    ),
    (
        {"quantization": {"model.norm": {"bits": [8], "group_size": 64}}},
        "`quantization.model.norm` with bits [8]",
    ),
    (
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        "`quantization_config.quant_method` = 'bitsandbytes', expected `mxfp4`",
    ),
]


@pytest.mark.parametrize(("raw", "says"), BAD_QUANTIZATION)
def test_unsupported_quantization_is_named(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_quantization(raw)
    assert says in str(error.value)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.sampled_from(["yarn", "default", "affine", "mxfp4", "bits", ""]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=5,
)
EXTREME = st.sampled_from([0, -1, 1, 4.0, 1e-300, 1e299, 1 << 31, 1 << 63, True])
VALUES = JSON | EXTREME
ROPE = st.dictionaries(st.sampled_from([*YARN, "rope_theta", "mscale"]), VALUES)
MODULE = st.fixed_dictionaries({"bits": VALUES, "group_size": VALUES, "mode": VALUES})
KEYS = [*published(), *ORIGINAL, "rope_parameters", "quantization"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    changes=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    rope=st.none() | ROPE,
    module=st.none() | MODULE,
    original=st.booleans(),
)
def test_any_config_is_read_or_refused(
    changes: dict[str, Any], rope: Any, module: Any, original: bool
) -> None:
    raw = (ORIGINAL if original else published()) | changes
    raw |= {} if rope is None else {"rope_scaling": YARN | rope}
    raw |= {} if module is None else {"quantization": {"lm_head": module}}
    try:
        config = ModelConfig.from_dict(raw)
        _, modules = parse_quantization(raw)
    except ConfigError as error:
        assert str(error)
        return
    assert config.hidden_size > 0
    assert all(x is None or type(x.bits) is int for x in modules.values())
