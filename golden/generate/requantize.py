"""A GGUF file with its matrices in other types, chosen as llama-quantize chooses them for Q4_K_M, Q5_K_M and Q3_K_M.

    pip install gguf numpy
    python requantize.py model.gguf Q4_K_M out.gguf

For files to test loading with: codes are rounded within the range of a block, where llama.cpp searches for better
scales, so perplexities are a little higher than those of its own files. Rows that are no multiple of 256 take what it
falls back to: Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K, IQ4_NL for Q3_K.
"""

import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

FALLBACK = {Type.Q3_K: Type.IQ4_NL, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}
NONLINEAR = np.array(gguf.quants.IQ4_NL.kvalues, np.float32)


def half(values: np.ndarray) -> np.ndarray:
    """f32 [blocks] as the bytes of f16 [blocks, 2]."""
    return values.astype("<f2")[:, None].view(np.uint8)


def divided(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    return np.divide(values, by, out=np.zeros_like(values), where=by != 0)


def six_bits(values: np.ndarray) -> np.ndarray:
    """Eight scales and eight mins of six bits, [blocks, 2, 8], in twelve bytes."""
    scales, mins = values[:, 0], values[:, 1]
    low = np.concatenate([scales[:, :4] | (scales[:, 4:] >> 4) << 6, mins[:, :4] | (mins[:, 4:] >> 4) << 6], 1)
    return np.concatenate([low, (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4], 1)


def quantize_q45_k(x: np.ndarray, bits: int) -> np.ndarray:
    """[blocks, 256] to Q4_K or Q5_K."""
    sub = x.reshape(-1, 8, 32)
    lowest = np.minimum(sub.min(-1), 0)
    scales = (sub.max(-1) - lowest) / (2**bits - 1)
    d = (scales.max(-1) / 63).astype(np.float16).astype(np.float32)
    dmin = (-lowest.min(-1) / 63).astype(np.float16).astype(np.float32)
    packed = np.stack([divided(scales, d[:, None] + 0 * scales), divided(-lowest, dmin[:, None] + 0 * lowest)], 1)
    packed = np.clip(np.rint(packed), 0, 63).astype(np.uint8)
    step = (d[:, None] * packed[:, 0])[:, :, None] + 0 * sub
    codes = np.rint(divided(sub + (dmin[:, None] * packed[:, 1])[:, :, None], step))
    codes = np.clip(codes, 0, 2**bits - 1).astype(np.uint8)
    pairs = codes.reshape(-1, 4, 2, 32) & 15
    low = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    fifth = [] if bits == 4 else [np.bitwise_or.reduce((codes >> 4) << np.arange(8)[:, None], axis=1).astype(np.uint8)]
    return np.concatenate([half(d), half(dmin), six_bits(packed), *fifth, low], 1)


def signed_codes(x: np.ndarray, largest_code: int, largest_scale: int):
    """Codes from -largest_code to largest_code - 1 of sub-blocks of 16, their scales, and the scale of the block."""
    sub = x.reshape(-1, 16, 16)
    at = np.abs(sub).argmax(-1)[:, :, None]
    scales = np.take_along_axis(sub, at, -1)[:, :, 0] / -largest_code
    d = (np.abs(scales).max(-1) / largest_scale).astype(np.float16).astype(np.float32)
    whole = np.clip(np.rint(divided(scales, d[:, None] + 0 * scales)), -largest_scale, largest_scale).astype(np.int8)
    step = (d[:, None] * whole)[:, :, None] + 0 * sub
    codes = np.clip(np.rint(divided(sub, step)), -largest_code, largest_code - 1).astype(np.int8)
    return codes.reshape(-1, 256), whole, d


def quantize_q6_k(x: np.ndarray) -> np.ndarray:
    codes, scales, d = signed_codes(x, 32, 127)
    q = (codes + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.stack([(q[:, :, r] & 15) | (q[:, :, r + 2] & 15) << 4 for r in (0, 1)], 2).reshape(-1, 128)
    high = np.bitwise_or.reduce((q >> 4) << (2 * np.arange(4))[:, None], axis=2).astype(np.uint8).reshape(-1, 64)
    return np.concatenate([low, high, scales.view(np.uint8), half(d)], 1)


def quantize_q3_k(x: np.ndarray) -> np.ndarray:
    codes, scales, d = signed_codes(x, 4, 31)
    q = (codes + 4).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = np.bitwise_or.reduce((q & 3) << (2 * np.arange(4))[:, None], axis=2).astype(np.uint8).reshape(-1, 64)
    third = np.bitwise_or.reduce((q.reshape(-1, 8, 32) >> 2) << np.arange(8)[:, None], axis=1).astype(np.uint8)
    s = (scales + 32).astype(np.uint8)
    lower = (s[:, :8] & 15) | (s[:, 8:] & 15) << 4
    upper = np.bitwise_or.reduce((s.reshape(-1, 4, 4) >> 4) << (2 * np.arange(4))[:, None], axis=1).astype(np.uint8)
    return np.concatenate([third, low, lower, upper, half(d)], 1)


def quantize_iq4_nl(x: np.ndarray) -> np.ndarray:
    at = np.abs(x).argmax(-1)[:, None]
    d = (np.take_along_axis(x, at, -1)[:, 0] / -127).astype(np.float16).astype(np.float32)
    scaled = divided(x, d[:, None] + 0 * x)
    codes = np.abs(scaled[:, :, None] - NONLINEAR).argmin(-1).astype(np.uint8)
    return np.concatenate([half(d), codes[:, :16] | codes[:, 16:] << 4], 1)


def quantize(x: np.ndarray, kind: Type) -> np.ndarray:
    own = {
        Type.Q4_K: lambda blocks: quantize_q45_k(blocks, 4),
        Type.Q5_K: lambda blocks: quantize_q45_k(blocks, 5),
        Type.Q6_K: quantize_q6_k,
        Type.Q3_K: quantize_q3_k,
        Type.IQ4_NL: quantize_iq4_nl,
    }
    if kind not in own:
        return gguf.quants.quantize(x, kind)
    elements, _ = gguf.GGML_QUANT_SIZES[kind]
    return own[kind](x.reshape(-1, elements)).reshape(x.shape[0], -1)


def wanted_type(name: str, mix: str, layers: int) -> Type:
    """What llama-quantize takes for a tensor, before fallbacks (simplified to the rules that a Llama meets)."""
    if name == "token_embd.weight" or name == "output.weight":
        return Type.Q6_K
    layer = int(name.split(".")[1])
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if mix == "Q3_K_M":
        if "attn_v" in name:
            return Type.Q5_K if layer < 2 else Type.Q4_K
        if "ffn_down" in name:
            return Type.Q5_K if layer < layers // 16 else Type.Q4_K if more else Type.Q3_K
        return Type.Q4_K if "attn_output" in name else Type.Q3_K
    base = Type.Q4_K if mix == "Q4_K_M" else Type.Q5_K
    return Type.Q6_K if more and ("attn_v" in name or "ffn_down" in name) else base


def main(source: str, mix: str, target: str) -> None:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    layers = reader.fields[f"{architecture}.block_count"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type)
    worst = 0.0
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        kind = wanted_type(tensor.name, mix, layers)
        if values.shape[1] % 256 != 0:
            kind = FALLBACK[kind]
        data = quantize(values, kind)
        again = gguf.quants.dequantize(data, kind)
        worst = max(worst, float(np.linalg.norm(again - values) / np.linalg.norm(values)))
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{target}: {mix}, largest relative error of a matrix {worst:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
