"""Negative log-likelihood of tokens by transformers, over the dequantized weights of a GGUF file.

    python perplexity_hf.py model.gguf result.json      (of scripts/gguf-perplexity.mjs; adds "transformers" to it)

Llama and Gemma 3. Sums in f32, plain attention.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers


def unpermute(weights: torch.Tensor, heads: int) -> torch.Tensor:
    """Undoes what llama.cpp's converter does to Wq and Wk: neighbours become pairs (i, i + headDim/2) again."""
    rows = weights.shape[0]
    return weights.reshape(heads, rows // heads // 2, 2, *weights.shape[1:]).transpose(1, 2).reshape(weights.shape)


def load(path: str) -> torch.nn.Module:
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()

    def value(key: str, default: object = None) -> object:
        field = reader.fields.get(f"{architecture}.{key}")
        return default if field is None else field.contents()

    tensors = {
        tensor.name: torch.tensor(
            np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(
                [int(size) for size in reversed(tensor.shape)]
            )
        )
        for tensor in reader.tensors
    }
    heads, kv_heads = value("attention.head_count"), value("attention.head_count_kv")
    head_dim = value("attention.key_length", value("embedding_length") // heads)
    sizes = {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": value("embedding_length"),
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
        "rope_theta": value("rope.freq_base"),
    }
    if architecture == "gemma3":
        window = value("attention.sliding_window")
        config = transformers.Gemma3TextConfig(**sizes, sliding_window=window, query_pre_attn_scalar=head_dim)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, sizes["num_hidden_layers"])
    else:
        config = transformers.LlamaConfig(**sizes)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, sizes["num_hidden_layers"])
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            values = tensors[names.get_name(key, try_suffixes=(".weight", ".bias"))]
            if architecture == "gemma3" and key.endswith("norm.weight"):
                values = values - 1
            if architecture == "llama" and ("q_proj" in key or "k_proj" in key):
                values = unpermute(values, heads if "q_proj" in key else kv_heads)
            weight.copy_(values)
    return model


def main(path: str, result: str) -> None:
    content = json.loads(Path(result).read_text())
    tokens = torch.tensor(content["tokens"])
    with torch.no_grad():
        logits = load(path)(tokens[None]).logits[0].double()
    logprobs = torch.log_softmax(logits, -1)[:-1].gather(1, tokens[1:, None])
    content["transformers"] = -logprobs.mean().item()
    Path(result).write_text(json.dumps(content) + "\n")
    print(f"engine {content['engine']:.6f}, transformers {content['transformers']:.6f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
