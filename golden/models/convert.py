"""Convert a Hugging Face Llama folder (f16 safetensors) to one GGUF file in Q8_0.

    python convert.py MODEL_DIR OUT.gguf --name "Books MHA 16M"

Needs `numpy` and `gguf` (the GGUF library of the llama.cpp project). Runs on a CPU in seconds and is
deterministic: the same folder gives the same bytes.

What changes on the way, and why:

* Matrices become Q8_0 (blocks of 32 weights along a row, one f16 scale per block); norm gains stay f32.
* The rows of Wq and Wk are permuted. Hugging Face rotates channel i of a head together with channel
  i + headDim/2 ("half" RoPE layout), llama.cpp rotates neighbours 2i and 2i+1 ("interleaved"). Permuting
  the rows that produce those channels turns one convention into the other; attention scores do not change.
* The embedding is tied: it is also the output matrix, and is stored once (no `output.weight`).
* The byte-level BPE tokenizer travels inside the file: tokens by id, merges, token types, pre-tokenizer name.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType

NUMPY_TYPES = {"F16": np.float16, "F32": np.float32}


def read_safetensors(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of all shards of a folder, by name. Layout: u64 header length, JSON header, data."""
    tensors: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        raw = path.read_bytes()
        (header_bytes,) = struct.unpack_from("<Q", raw)
        header = json.loads(raw[8 : 8 + header_bytes])
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = (8 + header_bytes + offset for offset in entry["data_offsets"])
            values = np.frombuffer(raw[begin:end], dtype=NUMPY_TYPES[entry["dtype"]])
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def permute_for_interleaved_rope(weight: np.ndarray, heads: int) -> np.ndarray:
    """[heads * headDim, hiddenSize] -> same shape, rows of each head reordered from half to interleaved.

    Row i and row i + headDim/2 of a head become rows 2i and 2i + 1.
    """
    rows, columns = weight.shape
    head_dim = rows // heads
    halves = weight.reshape(heads, 2, head_dim // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def add_matrix(writer: gguf.GGUFWriter, name: str, weight: np.ndarray) -> None:
    """[outChannels, inChannels] as Q8_0."""
    blocks = gguf.quants.quantize(weight.astype(np.float32), GGMLQuantizationType.Q8_0)
    writer.add_tensor(name, blocks, raw_dtype=GGMLQuantizationType.Q8_0)


def add_gain(writer: gguf.GGUFWriter, name: str, gain: np.ndarray) -> None:
    """[hiddenSize] as f32."""
    writer.add_tensor(name, gain.astype(np.float32))


def add_metadata(writer: gguf.GGUFWriter, config: dict, name: str) -> None:
    heads = config["num_attention_heads"]
    writer.add_name(name)
    writer.add_license("CC0-1.0")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict, config: dict) -> None:
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    by_id = {token_id: token for token, token_id in {**vocabulary, **special}.items()}
    if sorted(by_id) != list(range(config["vocab_size"])):
        raise ValueError(f"tokenizer ids do not fill 0..{config['vocab_size'] - 1}")
    tokens = [by_id[token_id] for token_id in range(config["vocab_size"])]
    types = [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    # A merge is a pair; GGUF writes it with one space between. No token contains a space (byte-level BPE).
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["model"]["merges"]]

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)


def convert(folder: Path, out: Path, name: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tensors = read_safetensors(folder)
    if config["model_type"] != "llama" or not config["tie_word_embeddings"]:
        raise ValueError("this script knows Llama models with tied embeddings only")

    writer = gguf.GGUFWriter(out, "llama")
    add_metadata(writer, config, name)
    add_tokenizer(writer, tokenizer, config)

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    add_matrix(writer, "token_embd.weight", tensors["model.embed_tokens.weight"])
    for layer in range(config["num_hidden_layers"]):
        source, target = f"model.layers.{layer}.", f"blk.{layer}."
        query = tensors[source + "self_attn.q_proj.weight"]
        key = tensors[source + "self_attn.k_proj.weight"]
        add_gain(writer, target + "attn_norm.weight", tensors[source + "input_layernorm.weight"])
        add_matrix(writer, target + "attn_q.weight", permute_for_interleaved_rope(query, heads))
        add_matrix(writer, target + "attn_k.weight", permute_for_interleaved_rope(key, kv_heads))
        add_matrix(writer, target + "attn_v.weight", tensors[source + "self_attn.v_proj.weight"])
        add_matrix(writer, target + "attn_output.weight", tensors[source + "self_attn.o_proj.weight"])
        add_gain(writer, target + "ffn_norm.weight", tensors[source + "post_attention_layernorm.weight"])
        add_matrix(writer, target + "ffn_gate.weight", tensors[source + "mlp.gate_proj.weight"])
        add_matrix(writer, target + "ffn_up.weight", tensors[source + "mlp.up_proj.weight"])
        add_matrix(writer, target + "ffn_down.weight", tensors[source + "mlp.down_proj.weight"])
    add_gain(writer, "output_norm.weight", tensors["model.norm.weight"])

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model_dir", type=Path, help="folder with config.json, tokenizer.json, *.safetensors")
    parser.add_argument("out", type=Path, help="GGUF file to write")
    parser.add_argument("--name", required=True, help="general.name of the file")
    arguments = parser.parse_args()
    convert(arguments.model_dir, arguments.out, arguments.name)
