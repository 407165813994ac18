"""Calibrates KVQuant (arXiv 2401.18079) for one GGUF model: what `--cache kvquant` needs.

    python calibrate_kvquant.py MODEL.gguf TEXT.txt OUT.safetensors [--skip 128] [--device cuda]

Then `xquant perplexity --model MODEL.gguf --cache "kvquant:3?calibration=OUT.safetensors" ...`. For an embedded
model OUT is ../calibration/NAME.safetensors, which is found by name.

Needs `torch`, `numpy`, `safetensors`, `gguf` and `transformers`. Llama architecture only. Weights are dequantized
and everything is computed in f64.

16 windows of 2048 tokens, spread evenly over the text after its first `--skip` windows, which are left for
evaluation. Per layer, from the keys (before RoPE) and values A of the unquantized model:

* Fisher weights F = (dL/dA)^2, L the mean cross-entropy of a window; no averaging.
* Ranges: keys per channel, over all tokens; values per token, over all channels. The quantiles p/2 and 1 - p/2,
  interpolated linearly; for p = 0 minimum and maximum. Y = (A - center) / radius; |Y| > 1 is left out.
* Levels: exact weighted k-means of Y with weights F * radius^2, over a histogram of 4096 bins on [-1, 1].
* Q-Norm: scale and shift that give quantized Y the mean and deviation of Y, without weights.

For p in {0, 0.01}, for a sink of 0 and 1 tokens (left out of ranges and fit), for 2, 3 and 4 bits. The definitions,
with tests, are `weightedKMeans` and `fitQNorm` in ts/src/quant/nuq-fit.ts.

Tensors, for each outlier fraction p and sink n:

    outliers.P.sink.N.key_lower, key_upper            f16 [layers, kvDim]
    outliers.P.sink.N.bits.B.key_levels, value_levels f16 [layers, 2^B], ascending
    outliers.P.sink.N.bits.B.key_q_norm, value_q_norm f32 [layers, 2], scale and shift
    key_weights                                       f32 [layers, 8], the first numbers of Wk: which model it is
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent.parent / "models"))
from calibrate import text_encoder  # noqa: E402
from reference_logits import LlamaFile, rms_norm, rope_interleaved  # noqa: E402

WINDOW = 2048
WINDOWS = 16
BINS = 4096
OUTLIER_FRACTIONS = (0.0, 0.01)
SINKS = (0, 1)
BITS = (2, 3, 4)
KEY_WEIGHTS = 8


def keys_and_values(model: LlamaFile, tokens: torch.Tensor):
    """tokens [n] -> keys before RoPE, values [layers, n, kvDim] and squared gradients of the loss by them."""
    w = model.weights
    n = len(tokens)
    grouped_heads = model.heads // model.kv_heads
    causal = torch.full((n, n), -math.inf, dtype=torch.float64, device=tokens.device).triu(1)
    hidden = w["token_embd.weight"][tokens]
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    for layer in range(model.layers):
        p = f"blk.{layer}."
        x = rms_norm(hidden, w[p + "attn_norm.weight"], model.epsilon)
        query = (x @ w[p + "attn_q.weight"].T).view(n, model.heads, model.head_dim)
        key, value = x @ w[p + "attn_k.weight"].T, x @ w[p + "attn_v.weight"].T
        for each in (key, value):
            if not each.requires_grad:
                each.requires_grad_(True)  # the first layer's: nothing below it has a gradient
            each.retain_grad()
        kept.append((key, value))
        key = rope_interleaved(key.view(n, model.kv_heads, model.head_dim), model.theta)
        query = rope_interleaved(query, model.theta)
        key = key.repeat_interleave(grouped_heads, dim=1)
        value = value.view(n, model.kv_heads, model.head_dim).repeat_interleave(grouped_heads, dim=1)
        scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(model.head_dim) + causal
        attended = torch.einsum("hqk,khd->qhd", scores.softmax(-1), value).reshape(n, -1)
        hidden = hidden + attended @ w[p + "attn_output.weight"].T
        x = rms_norm(hidden, w[p + "ffn_norm.weight"], model.epsilon)
        gate = torch.nn.functional.silu(x @ w[p + "ffn_gate.weight"].T)
        hidden = hidden + (gate * (x @ w[p + "ffn_up.weight"].T)) @ w[p + "ffn_down.weight"].T
    x = rms_norm(hidden, w["output_norm.weight"], model.epsilon)
    logits = x @ w.get("output.weight", w["token_embd.weight"]).T
    loss = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:])
    loss.backward()
    pick = lambda which, of: torch.stack([of(pair[which]) for pair in kept])
    values = [pick(which, lambda t: t.detach()) for which in (0, 1)]
    fisher = [pick(which, lambda t: t.grad.square()) for which in (0, 1)]
    return values, fisher, loss.item()


def quantile(ascending: torch.Tensor, fraction: float) -> torch.Tensor:
    """Of sorted rows [..., n]: linear interpolation at rank fraction * (n - 1)."""
    rank = fraction * (ascending.shape[-1] - 1)
    below = math.floor(rank)
    above = min(below + 1, ascending.shape[-1] - 1)
    return ascending[..., below] + (rank - below) * (ascending[..., above] - ascending[..., below])


def f16(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float16).to(torch.float64)


def weighted_k_means(points: torch.Tensor, weights: torch.Tensor, largest: int) -> list[torch.Tensor]:
    """Optimal centers for k = 1 .. largest of ascending points: clusters are runs, found by dynamic programming."""
    n = len(points)
    zero = torch.zeros(1, dtype=torch.float64, device=points.device)
    weight, first, second = (torch.cat((zero, (weights * points**power).cumsum(0))) for power in range(3))
    # cost[from, to] of the run [from, to); infinite where it would be empty or backwards
    run = lambda sums: sums[None, :] - sums[:, None]
    w = run(weight)
    cost = torch.where(w > 0, run(second) - run(first) ** 2 / w.clamp_min(1e-300), 0.0).clamp_min(0)
    cost = cost.masked_fill(torch.ones_like(cost, dtype=torch.bool).tril(), math.inf)
    best = cost[0].clone()
    best[0] = math.inf
    starts: list[torch.Tensor] = []
    result = []
    for k in range(1, largest + 1):
        if k > 1:
            best, start = (best[:, None] + cost).min(0)
            starts.append(start.cpu())
        centers, to = [], n
        for cluster in range(k - 1, -1, -1):
            begin = int(starts[cluster - 1][to]) if cluster else 0
            mass = weight[to] - weight[begin]
            centers.append((first[to] - first[begin]) / mass if mass > 0 else points[begin])
            to = begin
        result.append(torch.stack(centers[::-1]))
    return result


def fit(normalized: torch.Tensor, weights: torch.Tensor) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Inner values in [-1, 1] and their weights, flat -> by bits: levels [2^bits], (scale, shift) of Q-Norm."""
    bins = ((normalized + 1) / 2 * BINS).long().clamp(0, BINS - 1)
    mass = torch.zeros(BINS, dtype=torch.float64, device=normalized.device).scatter_add_(0, bins, weights)
    moment = torch.zeros_like(mass).scatter_add_(0, bins, weights * normalized)
    used = mass > 0
    points, mass = moment[used] / mass[used], mass[used]
    centers = weighted_k_means(points, mass, 2 ** max(BITS))
    fitted = {}
    for bits in BITS:
        levels = f16(centers[2**bits - 1])
        # The nearest level; on a tie the lower one, as `nearestLevel` has it.
        codes = torch.bucketize(normalized, (levels[1:] + levels[:-1]) / 2)
        quantized = levels[codes]
        scale = normalized.std(correction=0) / quantized.std(correction=0)
        shift = normalized.mean() - scale * quantized.mean()
        fitted[bits] = levels.cpu().numpy().astype(np.float16), np.float32([scale.item(), shift.item()])
    return fitted


def calibrate(tensors, fisher, windows: int) -> dict[str, np.ndarray]:
    """tensors, fisher: keys and values, each [layers, windows * WINDOW, kvDim]."""
    keys, values = tensors
    layers = keys.shape[0]
    collected: dict[str, list[np.ndarray]] = {}
    put = lambda name, value: collected.setdefault(name, []).append(value)
    for fraction in OUTLIER_FRACTIONS:
        for sink in SINKS:
            prefix = f"outliers.{fraction:g}.sink.{sink}."
            rows = torch.arange(windows * WINDOW, device=keys.device) % WINDOW >= sink
            for layer in range(layers):
                for name, all_rows, all_fisher in (("key", keys, fisher[0]), ("value", values, fisher[1])):
                    a, weight = all_rows[layer][rows], all_fisher[layer][rows]
                    ascending = a.sort(0 if name == "key" else 1).values
                    if name == "key":
                        ascending = ascending.T
                    upper, lower = quantile(ascending, 1 - fraction / 2), quantile(ascending, fraction / 2)
                    if name == "key":
                        upper, lower = f16(upper)[None, :], f16(lower)[None, :]
                        put(prefix + "key_upper", upper[0].cpu().numpy().astype(np.float16))
                        put(prefix + "key_lower", lower[0].cpu().numpy().astype(np.float16))
                    else:
                        upper, lower = upper[:, None], lower[:, None]
                    center, radius = f16((upper + lower) / 2), f16((upper - lower) / 2)
                    y = (a - center) / radius
                    inner = y.abs() <= 1
                    weight = (weight * radius.square()).expand_as(y)
                    for bits, (levels, q_norm) in fit(y[inner], weight[inner]).items():
                        put(f"{prefix}bits.{bits}.{name}_levels", levels)
                        put(f"{prefix}bits.{bits}.{name}_q_norm", q_norm)
    return {name: np.stack(parts) for name, parts in collected.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--skip", type=int, default=128, help="windows at the start of the text, left for evaluation")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    model = LlamaFile(arguments.model, arguments.device)
    with open(arguments.text, encoding="utf-8", newline="") as file:
        ids = text_encoder(arguments.model)(file.read())
    last = len(ids) // WINDOW - 1
    if last - arguments.skip + 1 < arguments.windows:
        raise SystemExit(f"the text has {last + 1} windows: too few after {arguments.skip} for {arguments.windows}")
    chosen = [round(each) for each in np.linspace(arguments.skip, last, arguments.windows)]

    parts: list[list[list[torch.Tensor]]] = [[[], []], [[], []]]
    losses = []
    for window in chosen:
        tokens = torch.tensor(ids[window * WINDOW : (window + 1) * WINDOW], device=arguments.device)
        *both, loss = keys_and_values(model, tokens)
        for kind in (0, 1):
            for which in (0, 1):
                parts[kind][which].append(both[kind][which])
        losses.append(loss)
    tensors, fisher = ([torch.cat(each, 1) for each in kind] for kind in parts)
    print(f"{arguments.model.name}: perplexity {math.exp(np.mean(losses)):.4f} on windows {chosen}", flush=True)

    result = calibrate(tensors, fisher, len(chosen))
    result["key_weights"] = np.stack(
        [
            model.weights[f"blk.{layer}.attn_k.weight"].flatten()[:KEY_WEIGHTS].cpu().numpy().astype(np.float32)
            for layer in range(model.layers)
        ]
    )
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else arguments.device
    settings = [
        {"bits": bits, "outlierFraction": fraction, "sink": sink}
        for fraction in OUTLIER_FRACTIONS
        for sink in SINKS
        for bits in BITS
    ]
    metadata = {
        "format": "xquant-kvquant-calibration",
        "version": "1",
        "model": arguments.model.name,
        "text": arguments.text.name,
        "windowSize": str(WINDOW),
        "windows": json.dumps(chosen),
        "settings": json.dumps(settings),
        "made_with": f"torch {torch.__version__}, {device}",
    }
    save_file({name: np.ascontiguousarray(value) for name, value in result.items()}, arguments.out, metadata=metadata)


if __name__ == "__main__":
    main()
