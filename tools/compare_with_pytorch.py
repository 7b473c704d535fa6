#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times training steps of elapse and of PyTorch on the CPU, side by side.

Both train the model of `elapse bench train.<mixer>-256x4`: byte embeddings, 4 residual layers of
d_model 256 (RMSNorm, mixer, projection), tied head, next-token loss over 8 sequences of 256, clipped
gradients, AdamW. PyTorch's mixers are its own nn.RNN, nn.LSTM and nn.GRU, and those that
tools/pytorch_mixers.py writes in plain PyTorch: WaveNet with conv1d; S4D and Hyena with torch.fft;
attention, with an MLP in each layer as in Transformer++, of products and a softmax; linear attention
and Mamba token by token, as the reference implementations of their recurrences do (and linear
attention in chunks, by their parallel forms: NAME.chunked). The two take turns, and the best of each
counts, so that both meet the same machine.

    /usr/bin/python3 tools/compare_with_pytorch.py [--threads 2] [--rounds 3] [MIXER ...]

with Debian's python3-torch and libopenblas0-openmp: without it, PyTorch multiplies matrices by the
reference BLAS, ten times slower. All mixers where none is named.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile
import time

import torch

import pytorch_mixers

ELAPSE = pathlib.Path(__file__).resolve().parent.parent / "build/elapse"
D_MODEL, LAYERS, VOCAB, SEQUENCES, LENGTH = 256, 4, 256, 8, 256
D_INTERMEDIATE = 704  # of Transformer++
SECONDS_A_ROUND = 3


def cells(cell):
    return lambda _layer: pytorch_mixers.Cell(cell, D_MODEL)


def linear_attention(kind, chunk):
    return lambda _layer: pytorch_mixers.LinearAttention(kind, D_MODEL, chunk)


# What makes the mixer of a layer; what follows a dot in a name is PyTorch's side alone.
MIXERS = {
    "rnn": cells(torch.nn.RNN),
    "lstm": cells(torch.nn.LSTM),
    "gru": cells(torch.nn.GRU),
    "wavenet": lambda layer: pytorch_mixers.WaveNet(D_MODEL, layer),
    "hyena": lambda _layer: pytorch_mixers.Hyena(D_MODEL),
    "linear_attention": linear_attention("linear_attention", 1),
    "linear_attention.chunked": linear_attention("linear_attention", 64),
    "retnet": linear_attention("retnet", 1),
    "retnet.chunked": linear_attention("retnet", 64),
    "gla": linear_attention("gla", 1),
    "gla.chunked": linear_attention("gla", 16),
    "mamba": lambda _layer: pytorch_mixers.Mamba(D_MODEL),
    "s4d": lambda _layer: pytorch_mixers.S4D(D_MODEL),
    "attention": lambda _layer: pytorch_mixers.Attention(D_MODEL, LENGTH),
}


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(D_MODEL))

    def forward(self, x):
        return self.weight * x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)


class Layer(torch.nn.Module):
    def __init__(self, mixer):
        super().__init__()
        self.norm = Norm()
        self.mixer = mixer

    def forward(self, x):
        return x + self.mixer(self.norm(x))


class Model(torch.nn.Module):
    def __init__(self, name):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, D_MODEL)
        layers = []
        for i in range(LAYERS):
            layers.append(Layer(MIXERS[name](i)))
            if name == "attention":
                layers.append(Layer(pytorch_mixers.SwiGLU(D_MODEL, D_INTERMEDIATE)))
        self.layers = torch.nn.Sequential(*layers)
        self.norm = Norm()

    def forward(self, tokens):
        return self.norm(self.layers(self.embedding(tokens))) @ self.embedding.weight.T


class Training:
    def __init__(self, name):
        torch.manual_seed(0)
        self.model = Model(name)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.1)

    def step(self):
        tokens = torch.randint(VOCAB, (SEQUENCES, LENGTH + 1))
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def best_milliseconds(self):
        self.step()
        best, end = float("inf"), time.perf_counter() + SECONDS_A_ROUND
        while time.perf_counter() < end:
            begin = time.perf_counter()
            self.step()
            best = min(best, time.perf_counter() - begin)
        return best * 1e3


def elapse_milliseconds(name, threads):
    with tempfile.TemporaryDirectory() as folder:
        results = pathlib.Path(folder) / "results.json"
        subprocess.run([ELAPSE, "bench", f"train.{name}-256x4", "--threads", str(threads),
                        "--json", results], check=True, capture_output=True)
        (row,) = json.loads(results.read_text())
        return row["value"]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mixers", nargs="*", metavar="MIXER")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    unknown = sorted(set(args.mixers) - set(MIXERS))
    if unknown:
        parser.error(f"{unknown[0]}: expected one of {', '.join(MIXERS)}")
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.threads} threads, ms a step\n"
          f"{'mixer':24} {'elapse':>8} {'PyTorch':>8} {'ratio':>6}")
    for name in args.mixers or MIXERS:
        training = Training(name)
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(elapse_milliseconds(name.split(".")[0], args.threads))
            theirs.append(training.best_milliseconds())
        print(f"{name:24} {min(ours):8.1f} {min(theirs):8.1f} {min(ours) / min(theirs):6.2f}",
              flush=True)


if __name__ == "__main__":
    main()
