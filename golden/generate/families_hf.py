"""Small random models of every family, and the log-probabilities that transformers gives them.

    pip install torch transformers gguf safetensors
    python families_hf.py [name ...]          (writes ../families/NAME/)

Each folder holds a model as Hugging Face stores it (config.json, model.safetensors in F16), the same model as GGUF under
the names of llama.cpp's converter (rows of Wq and Wk permuted where it permutes them), and expected.safetensors:

    tokens         I32 [300]      input
    logprobs       F32 [300, 8]   log-probability after each token of eight tokens: (next + 4 j) mod vocabulary, j = 0 ... 7

computed by transformers in f32 with plain attention ("eager") over the weights as they are in the file.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from gguf import MODEL_ARCH
from safetensors.numpy import save_file

FAMILIES = Path(__file__).resolve().parent.parent / "families"
VOCAB = 32
TOKENS = 300
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
MHA = {"num_attention_heads": 2, "num_key_value_heads": 2}
NO_HEAD_DIM = {"head_dim": None, "num_attention_heads": 2, "num_key_value_heads": 2}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}
# of 12 rotated channels: 0.75 of a head of 16
SHORT = [1.0, 1.1, 1.3, 1.6, 2.0, 2.5]
LONG = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": SHORT,
    "long_factor": LONG,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
}


def metadata_of_yarn(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(8.0)
    writer.add_rope_scaling_orig_ctx_len(64)


def metadata_of_ministral3(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(8.0)
    writer.add_rope_scaling_orig_ctx_len(512)
    writer.add_rope_scaling_yarn_log_mul(1.0)
    writer.add_attn_temperature_scale(0.1)


def metadata_of_longrope(writer: gguf.GGUFWriter) -> None:
    writer.add_rope_scaling_orig_ctx_len(512)
    writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(4096 / 512) / math.log(512)))
    writer.add_tensor("rope_factors_long.weight", np.array(LONG, np.float32))
    writer.add_tensor("rope_factors_short.weight", np.array(SHORT, np.float32))


def metadata_of_granite(writer: gguf.GGUFWriter) -> None:
    writer.add_embedding_scale(6.0)
    writer.add_attention_scale(0.2)
    writer.add_residual_scale(0.5)
    writer.add_logit_scale(3.0)


def metadata_of_minicpm(writer: gguf.GGUFWriter) -> None:
    writer.add_embedding_scale(6.0)
    writer.add_residual_scale(1.4 / math.sqrt(4))
    writer.add_logit_scale(32 / 16)


def metadata_of_hunyuan(writer: gguf.GGUFWriter) -> None:
    """llama.cpp's converter states theta after scaling, and that there is none."""
    writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)
    writer.add_rope_scaling_factor(1)


def window(size: int):
    return lambda writer: writer.add_sliding_window(size)


# name: config class, options, architecture of GGUF, whether its converter permutes, more metadata
CASES = {
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}, MODEL_ARCH.LLAMA, True, None),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": YARN}, MODEL_ARCH.LLAMA, True, metadata_of_yarn),
    "llama-dynamic": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
        MODEL_ARCH.LLAMA,
        True,
        None,
    ),
    "mistral": ("MistralConfig", {"sliding_window": 37}, MODEL_ARCH.LLAMA, True, window(37)),
    "qwen2": ("Qwen2Config", {**NO_HEAD_DIM}, MODEL_ARCH.QWEN2, False, None),
    "qwen3": (
        "Qwen3Config",
        {"use_sliding_window": True, "sliding_window": 21, "max_window_layers": 2, "attention_bias": True},
        None,
        False,
        None,
    ),
    "smollm3": ("SmolLM3Config", {**NO_HEAD_DIM}, MODEL_ARCH.SMOLLM3, True, None),
    "granite": (
        "GraniteConfig",
        {
            **NO_HEAD_DIM,
            "embedding_multiplier": 6.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.5,
            "logits_scaling": 3.0,
        },
        MODEL_ARCH.GRANITE,
        True,
        metadata_of_granite,
    ),
    "minicpm": (
        "GraniteConfig",
        {
            **NO_HEAD_DIM,
            "embedding_multiplier": 6.0,
            "attention_multiplier": 16**-0.5,
            "residual_multiplier": 1.4 / math.sqrt(4),
            "logits_scaling": 32 / 16,
            "tie_word_embeddings": True,
        },
        MODEL_ARCH.MINICPM,
        True,
        metadata_of_minicpm,
    ),
    "olmo2": ("Olmo2Config", {**NO_HEAD_DIM}, MODEL_ARCH.OLMO2, False, None),
    "phi3": ("Phi3Config", {**NO_HEAD_DIM, "sliding_window": 50}, MODEL_ARCH.PHI3, False, window(50)),
    "phi4-mini": (
        "Phi3Config",
        {
            **NO_HEAD_DIM,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 512,
            "rope_parameters": LONGROPE,
            "tie_word_embeddings": True,
        },
        MODEL_ARCH.PHI3,
        False,
        metadata_of_longrope,
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {**MHA, "intermediate_size": 24, "num_hidden_layers": 6, "query_pre_attn_scalar": 16, "sliding_window": 32},
        MODEL_ARCH.GEMMA3,
        False,
        window(32),
    ),
    "ernie4_5": ("Ernie4_5Config", {}, MODEL_ARCH.ERNIE4_5, False, None),
    "exaone4": (
        "Exaone4Config",
        {**NO_HEAD_DIM, "sliding_window": 40, "sliding_window_pattern": 4},
        MODEL_ARCH.EXAONE4,
        False,
        window(40),
    ),
    "hunyuan": (
        "HunYuanDenseV1Config",
        {
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "dynamic", "alpha": 50.0, "factor": 1.0, "rope_theta": 10000.0},
        },
        MODEL_ARCH.HUNYUAN_DENSE,
        False,
        metadata_of_hunyuan,
    ),
    "ministral3": (
        "Ministral3Config",
        {
            "max_position_embeddings": 4096,
            "rope_parameters": {
                **YARN,
                "original_max_position_embeddings": 512,
                "llama_4_scaling_beta": 0.1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
        MODEL_ARCH.MISTRAL3,
        True,
        metadata_of_ministral3,
    ),
}


def random_model(name: str) -> tuple[torch.nn.Module, dict]:
    """A model with weights of about the size that keeps activations near one, rounded to f16."""
    config_class, options, *_ = CASES[name]
    sizes = {**SIZES, **options}
    config = getattr(transformers, config_class)(**{k: v for k, v in sizes.items() if v is not None})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(sum(name.encode()))
    from_one = config.model_type == "gemma3_text"
    with torch.no_grad():
        for key, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 2:
                # sharper output and attention than at the start of training, so that mistakes show
                gain = 1.5 if "q_proj" in key or "k_proj" in key else 1.0
                values = noise * gain / math.sqrt(weight.shape[1])
                if "embed_tokens" in key or "lm_head" in key:
                    values = noise * 0.5
            elif key.endswith("bias"):
                values = noise * 0.3
            else:
                values = noise * 0.3 + (0.0 if from_one else 1.0)
            weight.copy_(values.half().float())
        model.tie_weights()
    return model, json.loads(config.to_json_string(use_diff=False))


def write_expected(model: torch.nn.Module, folder: Path) -> None:
    tokens = np.random.default_rng(5).integers(3, VOCAB, TOKENS).astype(np.int32)
    with torch.no_grad():
        logits = model(torch.tensor(tokens[None].astype(np.int64))).logits[0]
    logprobs = torch.log_softmax(logits.float(), -1).numpy()
    following = np.append(tokens[1:], 3)
    columns = (following[:, None] + 4 * np.arange(8)) % VOCAB
    chosen = np.take_along_axis(logprobs, columns, 1)
    save_file({"tokens": tokens, "logprobs": chosen.astype(np.float32)}, folder / "expected.safetensors")


def permute(weights: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp's converter: pairs (i, i + headDim/2) become neighbours."""
    shape = weights.shape
    return weights.reshape(heads, 2, shape[0] // heads // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(name: str, tensors: dict[str, np.ndarray], config: dict, path: Path) -> None:
    _, _, architecture, permutes, more = CASES[name]
    layers = config["num_hidden_layers"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(f"random {name}")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(VOCAB)
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    alpha = rope.get("alpha", 1)  # Hunyuan
    writer.add_rope_freq_base(rope["rope_theta"] * alpha ** (head_dim / (head_dim - 2)))
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    if more:
        more(writer)
    names = gguf.get_tensor_name_map(architecture, layers)
    for key, values in tensors.items():
        if permutes and "q_proj" in key:
            values = permute(values, heads)
        if permutes and "k_proj" in key:
            values = permute(values, kv_heads)
        if architecture == MODEL_ARCH.GEMMA3 and key.endswith("norm.weight"):
            values = values + 1
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert stored, key
        writer.add_tensor(stored, values.astype(np.float16 if values.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main(names: list[str]) -> None:
    for name in names or CASES:
        folder = FAMILIES / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model, config = random_model(name)
        write_expected(model, folder)
        tensors = {key: weight.detach().numpy() for key, weight in model.named_parameters()}
        save_file(
            {key: values.astype(np.float16) for key, values in tensors.items()}, folder / "model.safetensors"
        )
        if name == "minicpm":  # which transformers does not have under its own name
            factors = {"scale_emb": 6.0, "scale_depth": 1.4, "dim_model_base": 16}
            config = {
                **{k: v for k, v in config.items() if not k.endswith(("multiplier", "scaling"))},
                **factors,
                "model_type": "minicpm",
                "architectures": ["MiniCPMForCausalLM"],
            }
        kept = {k: v for k, v in config.items() if v is not None and k not in ("transformers_version", "dtype")}
        (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
        if CASES[name][2] is not None:
            write_gguf(name, tensors, config, folder / "model.gguf")
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name}: {size} bytes")
        assert size <= 200_000, name


if __name__ == "__main__":
    main(sys.argv[1:])
