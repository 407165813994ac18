"""Make every golden file: the one command.

    python generate.py --models ../models --text ../text/heldout.txt --out ../vectors --manifest ../manifest.json

Needs a CUDA GPU, torch, triton, numpy, safetensors, gguf and tokenizers. For each case: compute it in PyTorch eager
(reference.py), compare the Triton kernels (kernels.py) with it where one exists, write one safetensors file (none where a
kernel disagrees). At the end: manifest.json, and how near the kernels come to what the machine can do.

    --only quantize,pack   some families, whose entries take the place of earlier ones in the manifest
    --against DIR          compare every exact tensor with an earlier run, where it has the case
    --device cpu           without kernels      --no-bench     without measurements
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import struct
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch: the same sums in every run

import torch
from torch import Tensor

import families as F
import model as M
import reference as R

sys.path.append(str(Path(__file__).resolve().parent.parent / "models"))
import reference_logits  # noqa: E402  (golden/models)

WINDOWS, WINDOW_LENGTH = 8, 2048
TAP_TOKENS = 256

# --- One safetensors file ------------------------------------------------------------------------------------

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.int32: "I32", torch.uint8: "U8"}


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """Returns the sha256. Written here because the library's order of metadata changes from run to run.

    Larger element types first, so that every tensor is aligned; the header is padded to 8 bytes.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, dict] = {"__metadata__": dict(sorted(metadata.items()))}
    data, offset = [], 0
    for name in order:
        tensor = tensors[name].detach().cpu().contiguous()
        raw = tensor.flatten().view(torch.uint8).numpy().tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + len(raw)]}
        data.append(raw)
        offset += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    content = struct.pack("<Q", len(text)) + text + b"".join(data)
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_case(case: F.Case, folder: Path) -> dict:
    """Writes the file, returns its entry of the manifest."""
    tensors = {**case.inputs, **case.outputs}
    metadata = {"operation": case.operation, "options": json.dumps(case.options), "version": "1"}
    digest = write_safetensors(folder / f"{case.name}.safetensors", tensors, metadata)
    described = {}
    for name, tensor in tensors.items():
        entry = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "role": "output" if name in case.outputs else "input"}
        if name in case.outputs:
            entry["comparison"] = case.tolerance.get(name, "exact")
        described[name] = entry
    return {"file": f"vectors/{case.name}.safetensors", "sha256": digest, "operation": case.operation, "options": case.options, "tensors": described}


# --- The kernels against eager -------------------------------------------------------------------------------


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def check_kernels(case: F.Case, worst: dict[str, tuple[float, int]]) -> None:
    """Compare the Triton kernels with the case; raise if a byte differs or a float is outside the case's tolerance.

    `worst` collects, per operation, the largest error as a part of its tolerance, and the number of cases.
    """
    import kernels as K

    o, t = case.options, {**case.inputs, **case.outputs}

    def exact(found: Tensor, name: str) -> None:
        if not same_bytes(found, t[name]):
            differ = int((found.contiguous().view(torch.uint8) != t[name].contiguous().view(torch.uint8)).sum())
            raise AssertionError(f"kernel differs from eager: {case.name} {name}, {differ} of {found.numel()} bytes")
        done(0.0)

    def near(found: Tensor, name: str) -> None:
        allowed = case.tolerance[name]
        excess = (found - t[name]).abs() / (allowed["absolute"] + allowed["relative"] * t[name].abs())
        if not float(excess.max()) <= 1:
            raise AssertionError(f"kernel outside its tolerance: {case.name} {name}, {float(excess.max()):.3g} times")
        done(float(excess.max()))

    def done(part: float) -> None:
        before = worst.get(case.operation, (0.0, 0))
        worst[case.operation] = (max(before[0], part), before[1] + 1)

    if case.operation == "quantize":
        x = K.hadamard(t["x"]) if o["rotation"] == "hadamard" else t["x"]
        for name, found in zip(("packed", "scales", "mins"), K.quantize(x, o["bits"], o["grouping"], o["range"])):
            exact(found, name)
    elif case.operation == "rotate":
        exact(K.hadamard(t["x"]), "rotated")
    elif case.operation == "rematerialize" and o["form"] == "x":
        stacked = torch.cat((t["w_k"], t["w_v"]))  # K and V from one reading of the codes
        both = K.rematerialize(t["packed"], t["scales"], t["mins"], stacked, o["tokens"], o["bits"], o["grouping"])
        keys, values = both.split(t["w_k"].shape[0], dim=1)
        near(keys, "keys"), near(values, "values")
    elif case.operation == "rematerialize":
        for kind, up in (("key", "up_k"), ("value", "up_v")):
            stored = (t[f"{kind}_packed"], t[f"{kind}_scales"], t[f"{kind}_mins"])
            near(K.rematerialize(*stored, t[up], o["tokens"], o["bits"], o[f"{kind}Grouping"]), f"{kind}s")
    elif case.operation == "cl-encode" and o["form"] == "x":
        rows = K.hadamard(t["x"]) if o["rotation"] == "hadamard" else t["x"]
        accumulator = torch.zeros_like(rows[0])
        for i, row in enumerate(rows):
            bits = o["baseBits"] if i == 0 else o["bits"]
            *stored, following = K.quantize(row.contiguous(), bits, o["grouping"], o["range"], previous=accumulator)
            for name, found in zip(("packed", "scales", "mins"), stored):
                exact(found, f"{name}_{i}")
            if o["tokens"] % 128 == 0 or o["grouping"] == "perToken":
                decoded = K.accumulate(*stored, accumulator, bits, o["grouping"])
                if not torch.equal(decoded, t["accumulator"][i]):
                    raise AssertionError(f"kernel decode differs from eager: {case.name} layer {i}")
            if not torch.equal(following, t["accumulator"][i]):
                raise AssertionError(f"kernel accumulator differs from eager: {case.name} layer {i}")
            accumulator = following
    elif case.operation == "attend":
        pick = lambda kind: tuple(t[(f"{kind}_" if o["form"] == "latent" else "") + part] for part in ("packed", "scales", "mins"))
        w_k, w_v = (t["up_k"], t["up_v"]) if o["form"] == "latent" else (t["w_k"], t["w_v"])
        near(K.attend(t["query"], pick("key"), pick("value"), w_k, w_v, o["tokens"], o["bits"], o["keyGrouping"], o["valueGrouping"],
                      o["kvHeads"], o["position"], o["theta"], o["layout"]), "output")


# --- Measurements --------------------------------------------------------------------------------------------


def seconds(run, repeat: int = 10) -> float:
    """Median time of one call on the GPU, the L2 cache cold."""
    flush = torch.empty(128 << 20, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(repeat + 2):
        flush.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times[2:])[repeat // 2]


def benchmark() -> None:
    import kernels as K

    tokens, width, outs = 16384, 4096, 1024
    x = torch.randn(tokens, width, device="cuda")
    copy = 2 * x.nbytes / seconds(lambda: x.clone())
    a = torch.randn(8192, 8192, device="cuda")
    peak = 2 * 8192**3 / seconds(lambda: a @ a, 5)
    print(f"machine: copy {copy / 1e9:.0f} GB/s, f32 matrix product {peak / 1e12:.1f} TFLOP/s (no TF32)")
    line = lambda name, s, bytes_, flops=0: print(
        f"  {name:<46} {s * 1e6:9.1f} us {bytes_ / s / 1e9:7.0f} GB/s ({bytes_ / s / copy:4.0%})"
        + (f" {flops / s / 1e12:6.1f} TFLOP/s ({flops / s / peak:4.0%})" if flops else ""))
    line("(a) hadamard, f32 16384 x 4096", seconds(lambda: K.hadamard(x)), 2 * x.nbytes)
    for grouping in ("perToken", "perChannel"):
        for bits, range_ in ((4, "minmax"), (3, "minmax"), (2, "minmax"), (2, "mse")):
            stored = K.quantize(x, bits, grouping, range_)
            bytes_ = x.nbytes + sum(s.nbytes for s in stored)
            line(f"(a) quantize {bits} bit {grouping} {range_}", seconds(lambda: K.quantize(x, bits, grouping, range_)), bytes_)
    w = torch.randn(2 * outs, width, device="cuda")
    for bits in (4, 2):
        stored = K.quantize(x, bits, "perToken", "minmax")
        bytes_ = sum(s.nbytes for s in stored) + w.nbytes + tokens * 2 * outs * 4
        for precision in ("ieee", "tf32x3"):
            s = seconds(lambda: K.rematerialize(*stored, w, tokens, bits, "perToken", precision), 5)
            line(f"(b) rematerialize K, V {bits} bit per token {precision}", s, bytes_, 2 * tokens * width * 2 * outs)
    latent = torch.randn(131072, 1024, device="cuda")
    up = torch.randn(1024, 1024, device="cuda")
    stored = K.quantize(latent, 4, "perChannel", "minmax")
    bytes_ = sum(s.nbytes for s in stored) + up.nbytes + latent.nbytes
    for precision in ("ieee", "tf32x3"):
        s = seconds(lambda: K.rematerialize(*stored, up, len(latent), 4, "perChannel", precision), 5)
        line(f"(c) rematerialize K 4 bit per channel {precision}", s, bytes_, 2 * len(latent) * 1024 * 1024)
    previous = torch.randn_like(x)
    for range_ in ("minmax", "mse"):
        stored = K.quantize(x, 2, "perToken", range_, previous)[:3]
        bytes_ = 3 * x.nbytes + sum(s.nbytes for s in stored)
        line(f"(d) encode one layer 2 bit {range_}", seconds(lambda: K.quantize(x, 2, "perToken", range_, previous)), bytes_)
    bytes_ = 2 * x.nbytes + sum(s.nbytes for s in stored)
    line("(d) decode one layer 2 bit", seconds(lambda: K.accumulate(*stored, previous, 2, "perToken")), bytes_)
    heads, kv_heads, head_dim, width, tokens = 32, 8, 32, 256, 131072
    latent = torch.randn(tokens, width, device="cuda")
    key, value = K.quantize(latent, 4, "perChannel", "minmax"), K.quantize(latent, 4, "perToken", "minmax")
    up = torch.randn(kv_heads * head_dim, width, device="cuda")
    query = torch.randn(heads, head_dim, device="cuda")
    step = lambda: K.attend(query, key, value, up, up, tokens, 4, "perChannel", "perToken", kv_heads, tokens, 1e4, "half", 1024)
    flops = 2 * tokens * (kv_heads * head_dim * width + heads * (head_dim + width))
    line("(e) attend 131072 tokens, 32 heads, tables included", seconds(step, 5), sum(s.nbytes for s in (*key, *value)), flops)


# --- The command ---------------------------------------------------------------------------------------------


def logits_cases(models: Path, text: Path, device: str):
    """Logits of both models on three prompts, by golden/models/reference_logits.py."""
    for which in ("mha", "gqa"):
        path = models / f"books-{which}.gguf"
        llama = reference_logits.LlamaFile(path, device)
        ids = llama.tokenizer().encode(text.read_bytes().decode("utf-8")).ids
        starts, length, positions = reference_logits.PROMPT_STARTS, reference_logits.PROMPT_LENGTH, reference_logits.POSITIONS
        prompts = torch.tensor([ids[start : start + length] for start in starts], device=device)
        logits = torch.stack([reference_logits.forward(llama, prompt)[list(positions)] for prompt in prompts]).float()
        yield F.Case(
            f"logits-books-{which}", "logits", {"model": path.name, "promptStarts": starts},
            {"tokens": prompts.int(), "positions": torch.tensor(positions, dtype=torch.int32)}, {"logits": logits},
            # 20 layers of f32 sums; the issue that asked for these files wants 1e-4 of the largest logit.
            {"logits": F.close(1e-4 * float(logits.abs().max()))},
        )


def command_output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def exact_tensors_equal(case: F.Case, against: Path) -> bool:
    from safetensors.torch import load_file

    if not (against / f"{case.name}.safetensors").exists():
        return True
    earlier = load_file(against / f"{case.name}.safetensors")
    names = [*case.inputs, *(name for name in case.outputs if name not in case.tolerance)]
    return all(same_bytes(earlier[name], {**case.inputs, **case.outputs}[name].cpu()) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True, help="folder with books-mha.gguf and books-gqa.gguf")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, UTF-8")
    parser.add_argument("--out", type=Path, required=True, help="folder for the case files")
    parser.add_argument("--manifest", type=Path, help="manifest.json to write; with --only the one to change")
    parser.add_argument("--only", default="", help="families, comma separated")
    parser.add_argument("--against", type=Path, help="folder of an earlier run")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=2508)
    parser.add_argument("--commit", help="commit of the generator; default: of this checkout")
    parser.add_argument("--no-bench", action="store_true")
    a = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    a.out.mkdir(parents=True, exist_ok=True)
    begin = time.time()

    models = {which: M.Model(a.models / f"books-{which}.gguf", a.device) for which in ("mha", "gqa")}
    tokenizer = reference_logits.LlamaFile(a.models / "books-mha.gguf", "cpu").tokenizer()
    ids = tokenizer.encode(a.text.read_bytes().decode("utf-8")).ids
    windows = torch.tensor(ids[: WINDOWS * WINDOW_LENGTH], device=a.device).view(WINDOWS, WINDOW_LENGTH)
    taps: dict[str, dict] = {}
    for which, model in models.items():
        taps[which] = {}
        M.forward(model, windows[:1, :TAP_TOKENS], M.create_cache("kv", model.config, model.layers), 0, True, tap=taps[which])
    context = F.Context(a.device, a.seed, models, windows, taps)

    makers = {**F.FAMILIES, "logits": lambda _: logits_cases(a.models, a.text, a.device)}
    only = set(filter(None, a.only.split(","))) or set(makers)
    if only - set(makers):
        raise SystemExit(f"--only: no family {', '.join(sorted(only - set(makers)))}; there are {', '.join(makers)}")
    F.start_model_runs(context, only)
    entries, worst, changed, failures = [], {}, [], []
    for family, make in makers.items():
        if family not in only:
            continue
        started, count, size = time.time(), 0, 0
        for case in make(context):
            if a.device == "cuda":
                try:
                    check_kernels(case, worst)
                except Exception as error:  # go on, so that one run shows everything that is wrong
                    failures.append(f"{case.name}: {type(error).__name__}: {str(error)[:300]}")
                    print("KERNEL", failures[-1], flush=True)
                    continue
            if a.against and not exact_tensors_equal(case, a.against):
                changed.append(case.name)
            entries.append(write_case(case, a.out))
            count, size = count + 1, size + (a.out / f"{case.name}.safetensors").stat().st_size
        print(f"{family}: {count} cases, {size / 1e6:.2f} MB, {time.time() - started:.1f} s", flush=True)
    for operation, (part, count) in worst.items():
        print(f"kernels, {operation}: {count} comparisons, " + ("all bytes equal" if part == 0 else f"largest error {part:.3f} of its tolerance"))
    if a.against:
        print(f"against {a.against}: " + (f"EXACT TENSORS CHANGED in {changed}" if changed else "every exact tensor has the same bytes"))

    if a.manifest and not failures:
        cuda = a.device == "cuda"
        generator = {
            "gpu": torch.cuda.get_device_name() if cuda else "none",
            "driver": command_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else "none",
            "torch": torch.__version__, "triton": __import__("triton").__version__ if cuda else "none",
            "python": platform.python_version(), "seed": a.seed, "commit": a.commit or command_output("git", "rev-parse", "HEAD"),
        }
        manifest = {"version": 1, "generator": generator, "cases": []}
        if a.only:
            # Cases that are the same bytes keep the run that they came from.
            manifest = json.loads(a.manifest.read_text())
            known = {entry["file"]: entry["sha256"] for entry in manifest["cases"]}
            made = [entry["file"] for entry in entries if known.get(entry["file"]) != entry["sha256"]]
            manifest.setdefault("later", []).append({**generator, "files": made})
        kept = [entry for entry in manifest["cases"] if entry["file"] not in {made["file"] for made in entries}]
        manifest["cases"] = sorted(kept + entries, key=lambda e: e["file"])
        text = json.dumps(manifest, indent=1)
        a.manifest.write_text(text + "\n")
        print(json.dumps(generator))
    print(f"{len(entries)} cases in {time.time() - begin:.0f} s", flush=True)
    if a.device == "cuda" and not a.no_bench:
        benchmark()
    if changed or failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
