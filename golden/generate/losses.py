"""What caches lose on the embedded models, window by window: an independent measurement of the evaluation.

    python losses.py --models ../models --text books-heldout.txt --windows 96 --out ../losses.json

Needs what generate.py needs. The numbers are mean negative log-likelihoods of tokens 1 .. 2047 of each window, teacher
forced, everything quantized, on the weights of the GGUF files. `scripts/losses.mjs` puts those of the reference and the
engine beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

import model as M

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))
import reference_logits  # noqa: E402

WINDOW = 2048
CHUNK = 8  # windows at a time
WORKERS = 4

PAPER = [f"{name}:{bits}{suffix}" for name, suffix in (("kivi", ""), ("xquant", "@paper"), ("xquant-cl", "@paper")) for bits in (4, 3, 2)]
FOLDED = "xquant-cl:2@paper?deltaSpace=normalized"
TUNED = ["xquant:4@tuned", "xquant:2@tuned", "xquant-cl:3@tuned", "xquant-cl:2@tuned", "xquant-cl:2@tuned?baseBits=2",
         "xquant-cl:2@tuned?group=256", "xquant-cl:1@tuned"]
CACHES = {
    "books-mha": ["kv", *PAPER,
                  *(f"xquant:{bits}@paper?{option}" for option in ("rotation=hadamard", "form=latent") for bits in (4, 3, 2)),
                  *(f"xquant-cl:{bits}@paper?deltaSpace=normalized" for bits in (4, 3, 2)),
                  f"{FOLDED}&rotation=hadamard", f"{FOLDED}&range=mse", *TUNED],
    "books-gqa": ["kv", *PAPER, FOLDED, f"{FOLDED}&range=mse", *TUNED, "xquant:4@paper?form=x", "xquant-cl:2@tuned?form=x"],
}


def window_losses(path: Path, spec: str, ids: list[int], device: str) -> list[float]:
    torch.set_num_threads(1)
    model = M.Model(path, device)
    windows = torch.tensor(ids, device=device).view(-1, WINDOW)
    return [float(nll) for chunk in windows.split(CHUNK) for nll in M.perplexity_windows(model, spec, chunk)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="folder with books-mha.gguf and books-gqa.gguf")
    parser.add_argument("--text", type=Path, required=True, help="held-out text, UTF-8")
    parser.add_argument("--windows", type=int, default=96)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    a = parser.parse_args()
    begin = time.time()
    text = a.text.read_bytes()
    tokenizer = reference_logits.LlamaFile(a.models / "books-mha.gguf", "cpu").tokenizer()
    ids = tokenizer.encode(text.decode("utf-8")).ids[: a.windows * WINDOW]

    losses: dict[str, dict[str, list[float]]] = {name: {} for name in CACHES}
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        jobs = {(name, spec): pool.submit(window_losses, a.models / f"{name}.gguf", spec, ids, a.device) for name, specs in CACHES.items() for spec in specs}
        for (name, spec), job in jobs.items():
            # Rounding below what one unit in the last place of a float does anywhere.
            losses[name][spec] = own = [round(nll, 7) for nll in job.result()]
            difference = sum(own) / len(own) - sum(losses[name]["kv"]) / len(own)
            print(f"{name} {spec}: {difference:+.4f} nats, {time.time() - begin:.0f} s", flush=True)
    gpu = torch.cuda.get_device_name() if a.device == "cuda" else "none"
    result = {"gpu": gpu, "torch": torch.__version__, "textSha256": hashlib.sha256(text).hexdigest(), "windowLength": WINDOW, "losses": losses}
    lines = json.dumps(result, indent=1)
    # One line for each cache.
    for name in losses:
        for spec, own in losses[name].items():
            lines = lines.replace(json.dumps(own, indent=1).replace("\n", "\n   "), json.dumps(own))
    a.out.write_text(lines + "\n")


if __name__ == "__main__":
    main()
