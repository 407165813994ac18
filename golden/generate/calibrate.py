"""Calibrates `xquant:B@calibrated` and `xquant-cl:B@calibrated` on a GPU: metric, sensitivities, basis, bits, prediction.

    python calibrate.py MODEL --text F [--text F2] --fingerprint HEX --out FILE [--windows 16] [--sets cl-1:2.25,cl-2:2.25,joint,tensor,head]
    torchrun --nproc-per-node 2 calibrate.py MODEL ...       # windows split over the GPUs of a host

MODEL is a GGUF file or a Hugging Face folder of the Llama family; `transformers` loads both. `xquant info --fingerprint --model MODEL`
prints the fingerprint that says which model a calibration is for. Needs `torch`, `transformers`, `gguf`, `safetensors`.

Windows are spread evenly over the second half of every text, the same number of each, so that the first half is left for
evaluation. A model too
large for one GPU is spread by `--device-map auto`.

Notation of docs/algorithm.md, "What an error costs". Carrier c_i of layer i: X [Wk | Wv] before bias, norm and RoPE if that is
narrower than X, else X. Q_i = blockdiag(a_i Omega_K, b_i Omega_V) says what an error of [K | V] costs, in nats a token.
A C A = V L V^T with A = Q^(1/2), C the covariance of c - p. Coordinates have unit variance:

    E = A V L^(-1/2)       D = L^(1/2) V^T A^-1       y_i = sum over p of y_{i-p} M_p + t + z^       c^ = y D

Tensors of set S, layer i: S.layers.i.{decode, encode, predict.1, predict.2} f16 [n, n], {importance, offset} f32 [n].
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import torch
import torch.distributed as dist
from gguf import GGUFReader
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import calibrated as C

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import reference_logits  # noqa: E402

SINKS = 4  # first positions of a window: stored exactly, so left out of every statistic
EVEN_DISTANCES, FAR_DISTANCES, FARTHEST = 64, 64, 2047
FLOOR = 1e-3  # eigenvalues of the metric, in parts of their mean
RIDGE = 1e-4  # in parts of the mean variance of what is predicted from
SMALLEST = 1e-6  # importance, in parts of the layer's largest
ROUNDS = 2  # on reconstructed carriers, after one on exact carriers
SENSITIVITY_BITS = 2
SENSITIVITY_WINDOWS = 4


# --- The model -------------------------------------------------------------------------------------------------


@dataclass
class Sizes:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def carries_x(self) -> bool:
        """Whether the carrier is X itself: [K | V] would be wider."""
        return 2 * self.kv_dim > self.hidden


def text_encoder(path: Path) -> Callable[[str], list[int]]:
    """Text to token ids, no special ones added. Some versions of `transformers` fail on GGUF files without a token for the
    beginning of a text, such as the embedded models: those are read by reference_logits.py."""
    if path.suffix != ".gguf":
        tokenizer = AutoTokenizer.from_pretrained(path)
    elif "tokenizer.ggml.bos_token_id" in GGUFReader(path).fields:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    else:
        tokenizer = reference_logits.LlamaFile(path, "cpu").tokenizer()
        return lambda text: tokenizer.encode(text).ids
    return lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]


class Model:
    """A causal language model of `transformers`, with the places that calibration looks at and changes."""

    def __init__(self, path: Path, device: str, dtype: torch.dtype, device_map: str | None):
        where = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name} if path.suffix == ".gguf" else {"pretrained_model_name_or_path": path}
        placement = {"device_map": device_map} if device_map else {}
        self.causal = AutoModelForCausalLM.from_pretrained(**where, dtype=dtype, attn_implementation="sdpa", **placement).eval()
        if not device_map:
            self.causal.to(device)
        self.is_gguf = path.suffix == ".gguf"
        self.encode = text_encoder(path)
        self.device = device
        config = self.causal.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.sizes = Sizes(config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.num_key_value_heads, head_dim)
        self.blocks = self.causal.model.layers

    def attention(self, layer: int):
        return self.blocks[layer].self_attn

    def weight(self, layer: int) -> Tensor:
        """[Wk | Wv], [hiddenSize, 2 kvDim], f64."""
        attention = self.attention(layer)
        return torch.cat((attention.k_proj.weight, attention.v_proj.weight)).T.double().to(self.device)

    def rotated(self, vectors: Tensor, distances: Tensor) -> Tensor:
        """vectors [..., headDim] turned by RoPE over each distance -> [distances, ..., headDim]."""
        rotary = self.causal.model.rotary_emb
        cos, sin = rotary(vectors.float()[None], distances[None].to(vectors.device))
        shape = (len(distances),) + (1,) * (vectors.dim() - 1) + (-1,)
        cos, sin = cos[0].double().view(shape), sin[0].double().view(shape)
        half = vectors.shape[-1] // 2
        turned = torch.cat((-vectors[..., half:], vectors[..., :half]), -1)
        return vectors[None] * cos + turned[None] * sin

    def log_probabilities(self, window: Tensor) -> Tensor:
        """window [n] -> [n, vocabSize] f32, in nats."""
        first = next(self.causal.parameters()).device
        return self.causal(window[None].to(first), use_cache=False).logits[0].float().log_softmax(-1)

    def hook(self, module, function):
        return module.register_forward_hook(lambda _, inputs, output: function(inputs[0], output))


@dataclass
class Group:
    """Processes that share the windows; alone unless started by torchrun."""

    rank: int
    count: int

    def total(self, value: Tensor) -> Tensor:
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def same(self, *values: Tensor) -> None:
        """Everybody goes on with what the first has: eigenvectors may differ from GPU to GPU."""
        if self.count > 1:
            for value in values:
                dist.broadcast(value, 0)


# --- Importance of an error ----------------------------------------------------------------------------------------


@dataclass
class Activations:
    """Of this process's windows. carriers: one [tokens, n] f32 a layer. queries: E[q q^T] summed, [heads, headDim, headDim] f64."""

    carriers: list[Tensor]
    queries: list[Tensor]
    key_rms: list[Tensor | None]  # with QK-norm: mean rms of a head before the norm, [kvHeads]
    kept: Tensor  # bool [tokens]: what statistics are taken over
    tokens: int = 0


def collect(model: Model, windows: Tensor, group: Group) -> Activations:
    s = model.sizes
    parts: list[list[Tensor]] = [[] for _ in range(s.layers)]
    queries = [torch.zeros(s.heads, s.head_dim, s.head_dim, dtype=torch.float64, device=model.device) for _ in range(s.layers)]
    rms: list[Tensor | None] = [None] * s.layers
    hooks = []
    for layer in range(s.layers):
        attention = model.attention(layer)

        def keep(x: Tensor, keys: Tensor, layer=layer, attention=attention) -> None:
            x = x[0].to(model.device, torch.float32)
            if s.carries_x:
                parts[layer].append(x)
                return
            weight = torch.cat((attention.k_proj.weight, attention.v_proj.weight)).to(model.device, torch.float32)
            parts[layer].append(x @ weight.T)

        def look(_, q: Tensor, layer=layer) -> None:
            q = q.reshape(-1, s.heads, s.head_dim).double().to(model.device)
            queries[layer] += torch.einsum("thd,the->hde", q, q)

        def head_rms(k: Tensor, _, layer=layer) -> None:
            each = k.reshape(-1, s.kv_heads, s.head_dim).double().square().mean(-1).sqrt().sum(0).to(model.device)
            rms[layer] = each if rms[layer] is None else rms[layer] + each

        hooks.append(model.hook(attention.k_proj, keep))
        hooks.append(model.hook(getattr(attention, "q_norm", None) or attention.q_proj, look))
        if getattr(attention, "k_norm", None) is not None:
            hooks.append(model.hook(attention.k_norm, head_rms))
    for window in windows:
        model.log_probabilities(window)
    for hook in hooks:
        hook.remove()
    length = windows.shape[1]
    kept = torch.arange(len(windows) * length, device=model.device) % length >= SINKS
    tokens = torch.tensor(float(windows.numel()), device=model.device, dtype=torch.float64)
    total = float(group.total(tokens))
    means = [group.total(each) / total for each in queries]
    rms = [None if each is None else group.total(each) / total for each in rms]
    return Activations([torch.cat(each) for each in parts], means, rms, kept, int(total))


def distances(device: str) -> Tensor:
    even = torch.linspace(0, FARTHEST, EVEN_DISTANCES)
    far = torch.logspace(0, math.log10(FARTHEST), FAR_DISTANCES)
    return torch.cat((even, far)).round().long().to(device)


def metrics(model: Model, activations: Activations, layer: int) -> tuple[Tensor, Tensor]:
    """Omega_K, Omega_V of every KV head, [kvHeads, headDim, headDim] f64: e Omega e^T is what an error e of a key does to a
    squared score, of a value to the squared output of attention."""
    s = model.sizes
    shared = s.heads // s.kv_heads
    values, vectors = torch.linalg.eigh(activations.queries[layer])
    roots = (vectors * values.clamp_min(0).sqrt()[:, None]).transpose(1, 2)  # [heads, k, headDim], sum of outer products
    turned = model.rotated(roots, distances(model.device))
    of_keys = torch.einsum("nhkd,nhke->hde", turned, turned) / len(turned) / s.head_dim
    of_keys = of_keys.view(s.kv_heads, shared, s.head_dim, s.head_dim).sum(1)
    if activations.key_rms[layer] is not None:
        gain = model.attention(layer).k_norm.weight.double().to(model.device) / activations.key_rms[layer][:, None]
        of_keys = of_keys * gain[:, :, None] * gain[:, None, :]
    out = model.attention(layer).o_proj.weight.double().to(model.device).view(s.hidden, s.heads, s.head_dim)
    of_values = torch.einsum("ohd,ohe->hde", out, out).view(s.kv_heads, shared, s.head_dim, s.head_dim).sum(1)
    return of_keys, of_values


def root(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Q^(1/2) and its inverse, eigenvalues floored."""
    values, vectors = torch.linalg.eigh(metric)
    values = values.clamp_min(FLOOR * float(values.mean()))
    return (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T


def basis(metric: Tensor, covariance: Tensor, blocks: list[slice]) -> tuple[Tensor, Tensor, Tensor]:
    """E, D [n, n] and importance L [n], f64. Each block of channels has a basis of its own."""
    n = len(metric)
    encode, decode = torch.zeros_like(metric), torch.zeros_like(metric)
    importance = torch.zeros(n, dtype=metric.dtype, device=metric.device)
    for b in blocks:
        a, inverse = root(metric[b, b])
        values, vectors = torch.linalg.eigh(a @ covariance[b, b] @ a)
        values, vectors = values.flip(0), vectors.flip(1)
        values = values.clamp_min(SMALLEST * float(values[0]))
        importance[b] = values
        encode[b, b] = a @ vectors / values.sqrt()
        decode[b, b] = values.sqrt()[:, None] * (vectors.T @ inverse)
    return encode, decode, importance


def moments(group: Group, kept: Tensor, *columns: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the columns side by side, over the kept tokens of all processes, f64."""
    rows = torch.cat(columns, 1)[kept].double()
    count = group.total(torch.tensor(float(len(rows)), dtype=torch.float64, device=rows.device))
    mean = group.total(rows.sum(0)) / count
    rows -= mean
    return mean, group.total(rows.T @ rows) / count


def sensitivities(model: Model, windows: Tensor, activations: Activations, omegas: list, group: Group) -> Tensor:
    """[layers, 2]: nats of divergence a token for one unit of weighted squared error of keys, of values."""
    s = model.sizes
    result = torch.zeros(s.layers, 2, dtype=torch.float64, device=model.device)
    exact = [model.log_probabilities(window) for window in windows]
    length = windows.shape[1]
    for layer in range(s.layers):
        weight = model.weight(layer).float()
        rows = activations.carriers[layer][: windows.numel()]
        both = rows @ weight if s.carries_x else rows
        all_rows = activations.carriers[layer] @ weight if s.carries_x else activations.carriers[layer]
        for kind, module in enumerate((model.attention(layer).k_proj, model.attention(layer).v_proj)):
            part = slice(kind * s.kv_dim, (kind + 1) * s.kv_dim)
            metric = torch.block_diag(*omegas[layer][kind])
            mean, covariance = moments(group, activations.kept, all_rows[:, part])
            encode, decode, _ = basis(metric, covariance, [slice(0, s.kv_dim)])
            z = ((both[:, part].double() - mean) @ encode).float()
            bits = torch.full((s.kv_dim,), SENSITIVITY_BITS, device=model.device)
            z_hat = C.symmetric_values(z, bits, sinks=SINKS, window=length)
            kept = (torch.arange(len(z), device=model.device) % length >= SINKS)[:, None]
            error = ((z_hat - z).double() @ decode) * kept
            cost = (error @ metric * error).sum(1).mean()
            divergence = torch.zeros((), dtype=torch.float64, device=model.device)
            for w, window in enumerate(windows):
                shift = error[w * length : (w + 1) * length]
                hook = module.register_forward_hook(lambda _, __, output: output + shift.to(output.device, output.dtype)[None])
                log_q = model.log_probabilities(window)
                hook.remove()
                log_p = exact[w]
                divergence += (log_p.exp() * (log_p - log_q)).sum(-1).double().mean().to(model.device)
            result[layer, kind] = divergence / len(windows) / cost
    return group.total(result) / group.count


# --- Sets ----------------------------------------------------------------------------------------------------------


@dataclass
class Learned:
    """One layer of a set; matrices f32 with the values that the f16 file holds."""

    encode: Tensor
    decode: Tensor
    importance: Tensor
    offset: Tensor
    predict: list[Tensor] = field(default_factory=list)


def f16(value: Tensor) -> Tensor:
    rounded = value.to(torch.float16).float()
    if not torch.isfinite(rounded).all():
        raise SystemExit("a matrix does not fit in f16")
    return rounded


def channel_blocks(kind: str, sizes: Sizes, n: int) -> list[slice]:
    if kind == "joint" or sizes.carries_x:
        return [slice(0, n)]
    width = sizes.kv_dim if kind == "tensor" else sizes.head_dim
    return [slice(start, start + width) for start in range(0, n, width)]


def fit_layer(metric: Tensor, carrier: Tensor, below: list[tuple[Tensor, Learned]], blocks: list[slice], kept: Tensor, group: Group) -> Learned:
    """below: reconstructed coordinates y of the layers below (the next one first) and what they were made with."""
    n = carrier.shape[1]
    if not below:
        mean, covariance = moments(group, kept, carrier)
        encode, decode, importance = basis(metric, covariance, blocks)
        group.same(encode, decode, importance)
        return Learned(f16(encode), f16(decode), importance.float(), (mean @ encode).float())
    mean, covariance = moments(group, kept, carrier, *(y for y, _ in below))
    own, cross, side = covariance[:n, :n], covariance[n:, :n], covariance[n:, n:]
    ridge = RIDGE * float(side.diagonal().mean()) * torch.eye(len(side), dtype=side.dtype, device=side.device)
    matrix = torch.linalg.solve(side + ridge, cross)  # coordinates below -> carrier
    residual = own - matrix.T @ cross - cross.T @ matrix + matrix.T @ side @ matrix
    encode, decode, importance = basis(metric, residual, blocks)
    prediction = matrix @ encode
    group.same(encode, decode, importance, prediction)
    offset = mean[:n] @ encode - mean[n:] @ prediction
    return Learned(f16(encode), f16(decode), importance.float(), offset.float(), [f16(part) for part in prediction.split(n)])


def expected(learned: Learned, below: list[Tensor]) -> Tensor:
    return sum((y @ m for y, m in zip(below, learned.predict)), learned.offset)


def fit_set(model: Model, activations: Activations, metric: list[Tensor], kind: str, predict: int, bits: float, distortion: dict, length: int, group: Group) -> list[Learned]:
    s = model.sizes
    blocks = channel_blocks(kind, s, len(metric[0]))
    carriers, kept = activations.carriers, activations.kept
    budget = lambda layers: C.allocate([each.importance for each in layers], 2 * s.kv_dim, bits, distortion)
    exact: list[Learned] = []
    for layer in range(s.layers):
        # In the first round the layers below are taken as exact, each in coordinates of its own.
        below = [(carriers[layer - p] @ exact[layer - p].encode, exact[layer - p]) for p in range(1, predict + 1) if layer >= p]
        exact.append(fit_layer(metric[layer], carriers[layer], below, blocks, kept, group))
    if predict == 0:
        return exact
    learned = exact
    for _ in range(ROUNDS):
        widths = budget(learned)
        fresh: list[Learned] = []
        reconstructed: list[Tensor] = []
        for layer in range(s.layers):
            below = [(reconstructed[-p], fresh[-p]) for p in range(1, predict + 1) if layer >= p]
            own = fit_layer(metric[layer], carriers[layer], below, blocks, kept, group)
            p = expected(own, [y for y, _ in below])
            y = carriers[layer] @ own.encode
            z_hat = C.symmetric_values(y - p, widths[layer].to(y.device), sinks=SINKS, window=length)
            fresh.append(own)
            reconstructed.append(torch.where(kept[:, None], p + z_hat, y))
            if len(reconstructed) > 2:
                reconstructed[-3] = reconstructed[-3][:0]  # free it
        learned = fresh
    return learned


def measured_distortion(learned: list[Learned], carriers: list[Tensor], kept: Tensor, length: int) -> dict[int, float]:
    """D(b): mean squared error of the quantizer on the model's own coordinates, in parts of their variance."""
    result = {0: 1.0}
    for width in C.BITS[1:]:
        error = total = 0.0
        for layer in range(0, len(learned), max(1, len(learned) // 8)):
            y = carriers[layer] @ learned[layer].encode
            z = (y - learned[layer].offset)[: 4 * length]
            hat = C.symmetric_values(z, torch.full((z.shape[1],), width, device=z.device), sinks=SINKS, window=length)
            error += float(((hat - z).square())[kept[: len(z)]].double().mean())
            total += float(z.square()[kept[: len(z)]].double().mean())
        result[width] = error / total
    return result


def interleaved_rows(matrix: Tensor, sizes: Sizes, columns: bool) -> Tensor:
    """Keys of a GGUF file lie interleaved within a head; `transformers` has undone that. Carrier channels on the given axis."""
    half = sizes.head_dim // 2
    order = torch.arange(sizes.kv_dim, device=matrix.device).view(sizes.kv_heads, 2, half).transpose(1, 2).reshape(-1)
    order = torch.cat((order, torch.arange(sizes.kv_dim, 2 * sizes.kv_dim, device=matrix.device)))
    return matrix[:, order] if columns else matrix[order]


# --- The command -----------------------------------------------------------------------------------------------------


def parse_sets(text: str) -> list[tuple[str, int, float | None]]:
    """`cl-2:2.25` is prediction from two layers fitted at 2.25 bits an element; `joint`, `tensor`, `head` have none."""
    result = []
    for each in text.split(","):
        name, _, bits = each.partition(":")
        if name in ("joint", "tensor", "head") and not bits:
            result.append((name, 0, None))
        elif name in ("cl-1", "cl-2") and bits:
            result.append(("joint", int(name[-1]), float(bits)))
        else:
            raise SystemExit(f'--sets: "{each}" is none of joint, tensor, head, cl-1:BITS, cl-2:BITS')
    return result


def spread_windows(model: Model, texts: list[Path], count: int, length: int) -> tuple[Tensor, list[dict]]:
    each, parts, said = count // len(texts), [], []
    if each * len(texts) != count:
        raise SystemExit(f"--windows {count} is no multiple of {len(texts)} texts")
    for path in texts:
        text = path.read_bytes()
        ids = model.encode(text.decode("utf-8"))
        half = len(ids) // 2
        step = (len(ids) - half) // each
        if step < length:
            raise SystemExit(f"{path} has {len(ids)} tokens: too few for {each} windows of {length} in its second half")
        parts.append(torch.tensor([ids[half + step * i :][:length] for i in range(each)]))
        said.append({"name": path.name, "sha256": hashlib.sha256(text).hexdigest(), "tokens": each * length})
    # Turn by turn, so that the first few windows have every text.
    return torch.stack(parts, 1).flatten(0, 1), said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, action="append", required=True)
    parser.add_argument("--fingerprint", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--window-tokens", type=int, default=2048)
    parser.add_argument("--sets", default="joint,tensor,head,cl-1:2.25,cl-2:2.25")
    parser.add_argument("--no-encode", action="store_true", help="leave encode out: it is the inverse of decode")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--device-map", help="spread one copy of the model over GPUs, as `transformers` does")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the model's weights and activations")
    a = parser.parse_args()
    begin = time.time()
    torch.set_grad_enabled(False)
    group = Group(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
    if group.count > 1:
        a.device = f"cuda:{os.environ['LOCAL_RANK']}" if a.device == "cuda" else a.device
        if a.device != "cpu":
            torch.cuda.set_device(a.device)
        dist.init_process_group("nccl" if a.device != "cpu" else "gloo")
    say = lambda text: print(f"{time.time() - begin:6.1f} s  {text}", flush=True) if group.rank == 0 else None
    sets = parse_sets(a.sets)
    model = Model(a.model, a.device, getattr(torch, a.dtype), a.device_map)
    windows, texts = spread_windows(model, a.text, a.windows, a.window_tokens)
    if a.windows % group.count:
        raise SystemExit(f"--windows {a.windows} is no multiple of {group.count} processes")
    own = windows[group.rank :: group.count].to(a.device)
    s = model.sizes
    say(f"{a.model.name}: {s}, carrier {'X' if s.carries_x else '[K | V]'}, {len(windows)} windows of {a.window_tokens}")

    activations = collect(model, own, group)
    omegas = [metrics(model, activations, layer) for layer in range(s.layers)]
    say("metric")
    few = own[: max(1, SENSITIVITY_WINDOWS // group.count)]
    factor = sensitivities(model, few, activations, omegas, group)
    say("sensitivities: keys " + " ".join(f"{x:.3g}" for x in factor[:, 0]) + ", values " + " ".join(f"{x:.3g}" for x in factor[:, 1]))
    metric = []
    for layer in range(s.layers):
        q = torch.block_diag(*(factor[layer, 0] * omegas[layer][0]), *(factor[layer, 1] * omegas[layer][1]))
        weight = model.weight(layer)
        metric.append(weight @ q @ weight.T if s.carries_x else q)

    plain = {0: 1.0, 1: 0.425, 2: 0.15, 3: 0.047, 4: 0.014, 8: 1e-4}
    first = fit_set(model, activations, metric, "joint", 0, 2.0, plain, a.window_tokens, group)
    distortion = measured_distortion(first, activations.carriers, activations.kept, a.window_tokens)
    if group.count > 1:
        shared = torch.tensor([distortion[b] for b in C.BITS], dtype=torch.float64, device=a.device)
        group.same(shared)
        distortion = dict(zip(C.BITS, shared.tolist()))
    say(f"distortion {distortion}")

    tensors: dict[str, Tensor] = {}
    listed = []
    for kind, predict, bits in sets:
        name = f"cl-p{predict}-b{bits:g}" if predict else kind
        learned = first if (kind, predict) == ("joint", 0) else fit_set(model, activations, metric, kind, predict, bits or 2.25, distortion, a.window_tokens, group)
        listed.append({"name": name, "predict": predict, "basis": kind, "bits": bits})
        for i, layer in enumerate(learned):
            decode, encode = layer.decode, layer.encode
            if model.is_gguf and not s.carries_x:
                decode, encode = interleaved_rows(decode, s, True), interleaved_rows(encode, s, False)
            prefix = f"{name}.layers.{i}."
            tensors[prefix + "decode"] = decode.to(torch.float16)
            if not a.no_encode:
                tensors[prefix + "encode"] = encode.to(torch.float16)
            tensors[prefix + "importance"], tensors[prefix + "offset"] = layer.importance, layer.offset
            for p, matrix in enumerate(layer.predict, 1):
                tensors[f"{prefix}predict.{p}"] = matrix.to(torch.float16)
        say(f"set {name}: importance of all layers {sum(float(each.importance.sum()) for each in learned):.4g} nats a token")
    metadata = {
        "format": "xquant-calibration", "version": "1", "fingerprint": a.fingerprint, "model": a.model.name, "texts": json.dumps(texts),
        "windows": str(a.windows), "windowTokens": str(a.window_tokens), "sensitivityWindows": str(len(few) * group.count),
        "madeBy": "calibrate.py", "distortion": json.dumps({str(b): d for b, d in distortion.items()}), "sets": json.dumps(listed),
    }
    if group.rank == 0:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: t.contiguous().cpu() for name, t in tensors.items()}, a.out, metadata=metadata)
        say(f"{a.out}: {a.out.stat().st_size / 1e6:.1f} MB")
    if group.count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
