#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fixtures: tiny random checkpoints of every mixer and what each must compute.

The computation here is plain float64 PyTorch, one token after another and one sequence after
another, straight from the formulas; gradients are PyTorch's. It shares nothing with elapse.

Rerun it from anywhere with Debian's python3-torch and python3-numpy (PyTorch 1.13):
    /usr/bin/python3 tools/make_fixtures.py
Everything is drawn from fixed seeds. tests/fixtures/README.md, which it also writes, says what
the files hold.
"""
import argparse
import dataclasses
import json
import math
import pathlib
import struct

import torch

import fixture_mixers

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"
ROWS, LENGTH = 2, 19
PROMPT, GREEDY = 8, 24
PACKED_LENGTHS = (17, 1, 4)  # 17: one more than the tokens between the scan's checkpoints
PAST_LENGTHS = (5, 3, 0)  # of attention's packed sequences
TRAINING_STEPS = 10

README = """# Fixtures

Tiny random checkpoints in the published layouts (of mixers that have none, and of Mambas that are
not selective throughout: in our own), and what a model of each must compute. Made by
`tools/make_fixtures.py`, which walks token by token in float64 and shares no code with elapse.
Parameters are exact in float32. `expected.safetensors` holds, in float64 but where marked:

| tensor | what it is |
| --- | --- |
| `input_ids` | (batch, len) int64 |
| `logits`, `loss` | over the padded vocabulary; mean next-token cross-entropy over the rows |
| `grad.<parameter>` | of that loss |
| `point.<named point>` | (batch, len, ...); (batch, ...) where it is one value a sequence |
| `point.layers.<i>.mixer.{h,conv}_last` | the state after the last token |
| `greedy` | (1, tokens) int64: the first row's prompt of 8, continued; no padded classes |
| `train.losses`, `train.<parameter>` | ten AdamW steps on the batch; losses before each step |
| `packed.input_ids`, `packed.lengths` | int64: three sequences, one after another |
| `packed.start.layers.<i>.{h,conv}` | the states they start from |
| `packed.{logits,loss}`, `packed.point.<named point>` | (tokens, ...) |
| `packed.grad.<parameter>`, `packed.grad.start.*` | gradients of the loss over all three |
| `edited.<point>.logits` | packed logits when every value passing that point is doubled |
| `edited.<point>.grad.<parameter>` | of the parameters with one axis |

The state of recurrent mixers has one part, `cell`, in place of `h` and `conv`; that of `wavenet`
too, `queue`, a ring in which the row of position p stands at p modulo its rows; that of `hyena` has
`conv` and `queue`, whose rows stand in their order; `linear_attention` has `h` and `z`, `s4d`,
`retnet` and `gla` have `h`. Attention has none: its packed sequences start after the tokens
`packed.past_ids` of `packed.past_lengths`, through which no gradient goes.

Points of (tokens, d_inner, d_state) are those of layer 1 in the packed case, for size. AdamW: lr
1e-3, betas 0.9 0.95, eps 1e-8, decay 0.1 but none on A_log, B, C, D, biases and norms, gradient norm
clipped to 1. In float32 compare the losses, not the trained parameters: AdamW amplifies the
rounding of near-zero gradients.

`tokenizers/<family>` holds a small tokenizer as its family's files have it, and in `cases.json` the
tokens of texts chosen to hurt. Made by `tools/make_tokenizer_fixtures.py`, which scans and merges
by hand and shares no code with elapse either.
"""


@dataclasses.dataclass
class Config:
    d_model: int
    n_layers: int
    vocab_size: int
    expand: int
    d_state: int
    d_conv: int
    dt_rank: int
    vocab: int  # padded
    bias: bool = False
    conv_bias: bool = True
    tied: bool = True
    mixer_norm_eps: float = 0  # of weightless norms on dt_low, B and C; 0: none
    selective: tuple = ("dt", "B", "C")  # those of them that depend on the token
    gate: bool = True
    # Mamba-2's; head_dim 0: Mamba-1
    head_dim: int = 0
    n_groups: int = 1
    D_by_channel: bool = False
    dt_limit: tuple = (0.0, float("inf"))
    cell: str = ""  # "rnn", "lstm" or "gru" in place of Mamba
    hidden_size: int = 0
    ssm_init: str = ""  # "legs", "lin", "real": S4D in place of Mamba, of complex or real states
    h3: bool = False  # or H3
    # Attention's, in place of Mamba; heads 0: none
    heads: int = 0
    kv_heads: int = 0
    rope_theta: float = 0  # 0: keys and queries are not rotated
    rope_scaling: dict = None  # as transformers states Llama 3's
    window: int = 0
    # Around the mixers:
    norm_eps: float = 1e-5
    layer_norm: bool = False
    d_intermediate: int = 0  # 0: no MLP
    gelu: bool = False  # in place of SwiGLU
    max_positions: int = 0
    own: object = None  # of fixture_mixers, in place of all these

    @property
    def d_inner(self):
        return self.hidden_size if self.cell else self.expand * self.d_model

    @property
    def parts(self):
        """Names of the parts of a layer's state, and of the points where they start."""
        if self.ssm_init and not self.h3:
            return (("h", "h_start"),)
        if self.heads:
            return ()
        if self.own:
            return self.own.parts
        return (("cell", "cell_start"),) if self.cell else (("conv", "conv_state"),
                                                            ("h", "h_start"))

    @property
    def selected_rows(self):
        """Rows of x_proj, in their order."""
        rows = {"dt": self.dt_rank, "B": self.d_state, "C": self.d_state}
        return {name: rows[name] for name in rows if name in self.selective}

    @property
    def is_complex(self):
        return self.ssm_init != "real"

    @property
    def n_heads(self):
        return self.d_inner // self.head_dim

    @property
    def d_conv_inner(self):
        return self.d_inner + (2 * self.n_groups * self.d_state if self.head_dim else 0)


# ---- Parameters ----


def random_parameters(c, generator):
    """Parameters by their names in the original layout, rounded to float32."""
    def normal(*shape, scale):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    def add_norm(name):
        p[name + ".weight"] = 1 + normal(c.d_model, scale=0.1)
        if c.layer_norm:
            p[name + ".bias"] = normal(c.d_model, scale=0.1)

    p = {"backbone.embedding.weight": normal(c.vocab, c.d_model, scale=0.7)}
    if c.max_positions:
        p["backbone.positions.weight"] = normal(c.max_positions, c.d_model, scale=0.3)
    for i in range(c.n_layers):
        layer = f"backbone.layers.{i}."
        add_norm(layer + "norm")
        random = (random_attention if c.heads else random_cell if c.cell
                  else random_s4d if c.ssm_init else random_mixer2 if c.head_dim else random_mixer)
        p.update(c.own.random(i, normal) if c.own else random(c, layer + "mixer.", normal))
        if c.d_intermediate:
            add_norm(layer + "norm2")
            p.update(random_mlp(c, layer + "mlp.", normal))
    add_norm("backbone.norm_f")
    if not c.tied:
        p["lm_head.weight"] = normal(c.vocab, c.d_model, scale=0.7)
    return {name: value.float().double() for name, value in p.items()}


def random_mixer(c, prefix, normal):
    """Steps of all sizes, so that states neither vanish nor stay."""
    e, low = c.d_inner, sum(c.selected_rows.values())
    in_rows = 2 * e if c.gate else e
    log_n = torch.log(torch.arange(1, c.d_state + 1, dtype=torch.float64))
    p = {"A_log": log_n + normal(e, c.d_state, scale=0.2),
         "D": 1 + normal(e, scale=0.3),
         "in_proj.weight": normal(in_rows, c.d_model, scale=c.d_model ** -0.5),
         "conv1d.weight": normal(e, 1, c.d_conv, scale=c.d_conv ** -0.5)}
    if low:
        p["x_proj.weight"] = normal(low, e, scale=1.5 * e ** -0.5)
    if "dt" in c.selective:
        p["dt_proj.weight"] = normal(e, c.dt_rank, scale=c.dt_rank ** -0.5)
    p["dt_proj.bias"] = -2 + normal(e, scale=1)
    p["out_proj.weight"] = normal(c.d_model, e, scale=e ** -0.5)
    for name in ("B", "C"):
        if name not in c.selective:
            p[name] = normal(c.d_state, scale=1)
    if c.bias:
        p["in_proj.bias"] = normal(in_rows, scale=0.2)
        p["out_proj.bias"] = normal(c.d_model, scale=0.2)
    if c.conv_bias:
        p["conv1d.bias"] = normal(e, scale=0.3)
    return {prefix + name: value for name, value in p.items()}


def random_mixer2(c, prefix, normal):
    e, heads = c.d_inner, c.n_heads
    rows = e + c.d_conv_inner + heads
    p = {"A_log": normal(heads, scale=1),
         "D": 1 + normal(e if c.D_by_channel else heads, scale=0.3),
         "dt_bias": -1.5 + normal(heads, scale=1),
         "in_proj.weight": normal(rows, c.d_model, scale=c.d_model ** -0.5),
         "conv1d.weight": normal(c.d_conv_inner, 1, c.d_conv, scale=c.d_conv ** -0.5),
         "norm.weight": 1 + normal(e, scale=0.1),
         "out_proj.weight": normal(c.d_model, e, scale=e ** -0.5)}
    if c.bias:
        p["in_proj.bias"] = normal(rows, scale=0.2)
        p["out_proj.bias"] = normal(c.d_model, scale=0.2)
    if c.conv_bias:
        p["conv1d.bias"] = normal(c.d_conv_inner, scale=0.3)
    return {prefix + name: value for name, value in p.items()}


def random_cell(c, prefix, normal):
    rows = {"rnn": 1, "lstm": 4, "gru": 3}[c.cell] * c.d_inner
    p = {"weight_ih_l0": normal(rows, c.d_model, scale=c.d_model ** -0.5),
         "weight_hh_l0": normal(rows, c.d_inner, scale=c.d_inner ** -0.5),
         "bias_ih_l0": normal(rows, scale=0.2),
         "bias_hh_l0": normal(rows, scale=0.2),
         "out_proj.weight": normal(c.d_model, c.d_inner, scale=c.d_inner ** -0.5)}
    return {prefix + name: value for name, value in p.items()}


def random_s4d(c, prefix, normal):
    n = c.d_state // 2 if c.is_complex else c.d_state
    order = torch.arange(n, dtype=torch.float64)
    p = {"kernel.log_dt": -3 + normal(c.d_inner, scale=0.7)}
    if c.is_complex:
        p["kernel.C"] = normal(c.d_inner, n, 2, scale=0.7)
        p["kernel.log_A_real"] = -0.7 + normal(c.d_inner, n, scale=0.3)
        p["kernel.A_imag"] = torch.pi * order + normal(c.d_inner, n, scale=0.3)
    else:
        p["kernel.C"] = normal(c.d_inner, n, scale=0.5)
        p["kernel.log_A_real"] = torch.log(order + 1) + normal(c.d_inner, n, scale=0.3)
    p["D"] = normal(c.d_inner, scale=1)
    if c.h3:
        p = {name.replace("kernel.", "ssm_kernel."): value for name, value in p.items()}
        for name in ("q_proj", "k_proj", "v_proj", "output_linear"):
            p[name + ".weight"] = normal(c.d_model, c.d_model, scale=c.d_model ** -0.5)
            p[name + ".bias"] = normal(c.d_model, scale=0.2)
        p["shift.weight"] = normal(c.d_model, 1, c.d_state, scale=2 * c.d_state ** -0.5)
        return {prefix + name: value for name, value in p.items()}
    p["output_linear.weight"] = normal(2 * c.d_model, c.d_model, scale=c.d_model ** -0.5)
    p["output_linear.bias"] = normal(2 * c.d_model, scale=0.2)
    return {prefix + name: value for name, value in p.items()}


def random_map(name, out, width, bias, normal):
    p = {name + ".weight": normal(out, width, scale=width ** -0.5)}
    if bias:
        p[name + ".bias"] = normal(out, scale=0.2)
    return p


def random_attention(c, prefix, normal):
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    p = {}
    for name, out, width in (("q", q, c.d_model), ("k", kv, c.d_model), ("v", kv, c.d_model),
                             ("o", c.d_model, q)):
        p.update(random_map(f"{prefix}{name}_proj", out, width, c.bias, normal))
    return p


def random_mlp(c, prefix, normal):
    wide, p = c.d_intermediate, {}
    inner = ("fc",) if c.gelu else ("up_proj", "gate_proj")
    for name in inner:
        p.update(random_map(prefix + name, wide, c.d_model, c.gelu, normal))
    p.update(random_map(prefix + ("proj" if c.gelu else "down_proj"), c.d_model, wide, c.gelu,
                        normal))
    return p


# ---- The model, one token after another ----


def unchanged(_name, value):
    return value


def silu(x):
    return x * torch.sigmoid(x)


def within(point, prefix):
    return lambda name, value: point(prefix + name, value)


def norm(c, p, name, x, point):
    if c.layer_norm:
        x = x - x.mean(-1, keepdim=True)
    scale = point("scale", torch.sqrt((x * x).mean(-1, keepdim=True) + c.norm_eps))
    normed = p[name + ".weight"] * x / scale
    return normed + p[name + ".bias"] if c.layer_norm else normed


def mapped(p, name, x):
    return torch.nn.functional.linear(x, p[name + ".weight"], p.get(name + ".bias"))


def stretched(frequency, factor, low_freq_factor, high_freq_factor,
              original_max_position_embeddings, rope_type):
    """As transformers' _compute_llama3_parameters, which goes by wavelengths."""
    assert rope_type == "llama3"
    wavelength = 2 * math.pi / frequency
    if wavelength < original_max_position_embeddings / high_freq_factor:
        return frequency
    if wavelength > original_max_position_embeddings / low_freq_factor:
        return frequency / factor
    smooth = (original_max_position_embeddings / wavelength - low_freq_factor) / (
        high_freq_factor - low_freq_factor)
    return (1 - smooth) * frequency / factor + smooth * frequency


def rotated(c, x, position):
    """Channels i and i + head_dim / 2 of each head, (heads, head_dim), by the angle of pair i."""
    if not c.rope_theta:
        return x
    half = c.head_dim // 2
    exponents = torch.arange(half, dtype=torch.float64) * 2 / c.head_dim
    frequencies = c.rope_theta ** -exponents
    if c.rope_scaling:
        frequencies = torch.stack([stretched(f, **c.rope_scaling) for f in frequencies])
    angles = position * frequencies
    turn = torch.complex(torch.cos(angles), torch.sin(angles))
    pairs = torch.complex(x[:, :half], x[:, half:]) * turn
    return torch.cat([pairs.real, pairs.imag], 1)


def attention(c, p, prefix, u, state, point):
    """One token; the state is the keys and the values so far, (tokens, kv_heads, head_dim) each."""
    keys, values = state
    position = len(keys)
    q = point("q", mapped(p, prefix + "q_proj", u).reshape(c.heads, c.head_dim))
    k = point("k", mapped(p, prefix + "k_proj", u).reshape(c.kv_heads, c.head_dim))
    v = point("v", mapped(p, prefix + "v_proj", u).reshape(c.kv_heads, c.head_dim))
    if c.rope_theta:
        q, k = point("rot_q", rotated(c, q, position)), point("rot_k", rotated(c, k, position))
    keys, values = torch.cat([keys, k[None]]), torch.cat([values, v[None]])
    first = max(0, len(keys) - c.window) if c.window else 0
    group, z = c.heads // c.kv_heads, []
    for head in range(c.heads):
        seen = (slice(first, None), head // group)
        pattern = torch.softmax(keys[seen] @ q[head] / c.head_dim ** 0.5, 0)
        z.append(pattern @ values[seen])
    z = point("z", torch.stack(z))
    return point("out", mapped(p, prefix + "o_proj", z.reshape(-1))), (keys, values)


def mlp(c, p, prefix, u, point):
    if c.gelu:
        pre = point("pre", mapped(p, prefix + "fc", u))
        post = point("post", torch.nn.functional.gelu(pre, approximate="tanh"))
        return point("out", mapped(p, prefix + "proj", post))
    pre = point("pre", mapped(p, prefix + "gate_proj", u))
    pre_linear = point("pre_linear", mapped(p, prefix + "up_proj", u))
    post = point("post", torch.nn.functional.silu(pre) * pre_linear)
    return point("out", mapped(p, prefix + "down_proj", post))


def weightless_norm(c, x):
    return x / torch.sqrt((x * x).mean() + c.mixer_norm_eps) if c.mixer_norm_eps else x


def convolved(weight, window, bias, point):
    """The last token's, of the last d_conv: (d_inner)."""
    terms = weight[:, 0].T * window
    terms = [point(f"conv_term.{len(window) - 1 - k}", term) for k, term in enumerate(terms)]
    return point("conv", sum(terms) + bias)


def mixer(c, p, prefix, u, state, point):
    """One token: u (d_model), state (conv (d_conv - 1, d_inner), h (d_inner, d_state))."""
    def bias_of(name):
        return p.get(prefix + name, 0)

    conv_state, h = state
    inner = p[prefix + "in_proj.weight"] @ u + bias_of("in_proj.bias")
    in_x = point("in_x", inner[:c.d_inner])
    z = point("in_z", inner[c.d_inner:]) if c.gate else None
    window = torch.cat([conv_state, in_x[None]])
    x = point("x", silu(convolved(p[prefix + "conv1d.weight"], window, bias_of("conv1d.bias"), point)))
    selected = {}
    if c.selective:
        parts = (p[prefix + "x_proj.weight"] @ x).split(list(c.selected_rows.values()))
        selected = {name: weightless_norm(c, part) for name, part in zip(c.selected_rows, parts)}
    dt_pre = p[prefix + "dt_proj.bias"]
    if "dt" in selected:
        dt_pre = p[prefix + "dt_proj.weight"] @ point("dt_low", selected["dt"]) + dt_pre
    B, C = (point(name, selected[name] if name in selected else p[prefix + name])
            for name in ("B", "C"))
    dt_pre = point("dt_pre", dt_pre)
    dt = point("dt", torch.nn.functional.softplus(dt_pre))[:, None]
    A = point("A", -torch.exp(p[prefix + "A_log"]))
    decay = point("decay", torch.exp(dt * A))
    B_bar = point("B_bar", dt * B)
    h = point("h", decay * h + point("write", B_bar * x[:, None]))
    y = point("y", point("readout_h", h) @ C)
    ssm_out = point("ssm_out", y + p[prefix + "D"] * x)
    gated = point("gated", ssm_out * point("gate", silu(z)) if c.gate else ssm_out)
    out = point("out", p[prefix + "out_proj.weight"] @ gated + bias_of("out_proj.bias"))
    return out, (window[1:], h)


def mixer2(c, p, prefix, u, state, point):
    """One token of Mamba-2: conv (d_conv - 1, d_conv_inner), h (d_inner, d_state)."""
    def bias_of(name):
        return p.get(prefix + name, 0)

    def by_channel(of_heads):  # (n_heads) -> (d_inner, 1)
        return of_heads.repeat_interleave(c.head_dim)[:, None]

    def by_head(of_groups):  # (n_groups d_state) -> (n_heads, d_state)
        return of_groups.reshape(c.n_groups, -1).repeat_interleave(c.n_heads // c.n_groups, 0)

    conv_state, h = state
    z, in_xBC, dt_raw = (p[prefix + "in_proj.weight"] @ u + bias_of("in_proj.bias")).split(
        [c.d_inner, c.d_conv_inner, c.n_heads])
    z, in_xBC = point("in_z", z), point("in_xBC", in_xBC)
    window = torch.cat([conv_state, in_xBC[None]])
    conv = convolved(p[prefix + "conv1d.weight"], window, bias_of("conv1d.bias"), point)
    x, B, C = silu(conv).split([c.d_inner] + 2 * [c.n_groups * c.d_state])
    x, B, C = point("x", x), point("B", B), point("C", C)
    dt_pre = point("dt_pre", dt_raw + p[prefix + "dt_bias"])
    dt = point("dt", torch.nn.functional.softplus(dt_pre).clamp(*c.dt_limit))
    A = point("A", -torch.exp(p[prefix + "A_log"]))
    decay = point("decay", torch.exp(dt * A))
    B_bar = point("B_bar", dt[:, None] * by_head(B))
    write = point("write", B_bar.repeat_interleave(c.head_dim, 0) * x[:, None])
    h = point("h", by_channel(decay) * h + write)
    rows = by_head(C).repeat_interleave(c.head_dim, 0)
    y = point("y", (point("readout_h", h) * rows).sum(1))
    D = p[prefix + "D"]
    D = D if c.D_by_channel else by_channel(D)[:, 0]
    ssm_out = point("ssm_out", y + D * x)
    gated = point("gated", ssm_out * point("gate", silu(z))).reshape(c.n_groups, -1)
    scale = point("scale", torch.sqrt((gated * gated).mean(-1) + 1e-5))
    norm = point("norm", p[prefix + "norm.weight"] * (gated / scale[:, None]).reshape(-1))
    out = point("out", p[prefix + "out_proj.weight"] @ norm + bias_of("out_proj.bias"))
    return out, (window[1:], h)


def recurrent(c, p, prefix, u, state, point):
    """One token; the state has one part, (1 or 2, d_inner): h, and an LSTM's c."""
    (cell,) = state
    h = cell[0]
    a = point("in_gates", p[prefix + "weight_ih_l0"] @ u + p[prefix + "bias_ih_l0"])
    m = p[prefix + "weight_hh_l0"] @ h + p[prefix + "bias_hh_l0"]
    if c.cell == "rnn":
        h = point("h", torch.tanh(a + m))
        cell = h[None]
    elif c.cell == "lstm":
        i, f, g, o = (a + m).split(c.d_inner)
        i, f = point("i", torch.sigmoid(i)), point("f", torch.sigmoid(f))
        g, o = point("g", torch.tanh(g)), point("o", torch.sigmoid(o))
        carried = point("c", f * cell[1] + i * g)
        h = point("h", o * torch.tanh(carried))
        cell = torch.stack([h, carried])
    else:
        (a_r, a_z, a_n), (m_r, m_z, m_n) = a.split(c.d_inner), m.split(c.d_inner)
        r, z = point("r", torch.sigmoid(a_r + m_r)), point("z", torch.sigmoid(a_z + m_z))
        n = point("n", torch.tanh(a_n + r * m_n))
        h = point("h", (1 - z) * n + z * h)
        cell = h[None]
    return point("out", p[prefix + "out_proj.weight"] @ h), (cell,)


def poles(c, p, prefix, point):
    """dt (d_inner, 1), A and C (d_inner, n_states): complex, or real."""
    dt = point("dt", torch.exp(p[prefix + "log_dt"]))[:, None]
    A, C = point("A_real", -torch.exp(p[prefix + "log_A_real"])), p[prefix + "C"]
    if c.is_complex:
        A = torch.complex(A, point("A_imag", p[prefix + "A_imag"]))
        C = 2 * torch.view_as_complex(C)
    return dt, A, C


def diagonal_ssm(c, p, kernel, D, x, h, point):
    """One token, x (d_inner) and h (d_inner, d_state): real and imaginary parts in turn."""
    def as_numbers(rows):
        return torch.view_as_complex(rows.reshape(len(x), -1, 2)) if c.is_complex else rows

    dt, A, C = poles(c, p, kernel, point)
    A_bar = torch.exp(dt * A)
    now = A_bar * as_numbers(h) + (A_bar - 1) / A * x[:, None]
    h = point("h", torch.view_as_real(now).reshape(len(x), -1) if c.is_complex else now)
    read = C * as_numbers(h)
    y = (read.real if c.is_complex else read).sum(1)
    return point("ssm_out", y + p[D] * x), h


def h3(c, p, prefix, u, state, point):
    """One token; the state: the shift's queue (d_state - 1, d_model), h (d_model, d_state)."""
    def linear(name, x):
        return p[f"{prefix}{name}.weight"] @ x + p[f"{prefix}{name}.bias"]

    queue, h = state
    q, k, v = (point(name, linear(f"{name}_proj", u)) for name in "qkv")
    window = torch.cat([queue, k[None]])
    kv = point("kv", convolved(p[prefix + "shift.weight"], window, 0, point) * v)
    ssm_out, h = diagonal_ssm(c, p, prefix + "ssm_kernel.", prefix + "D", kv, h, point)
    gated = point("gated", ssm_out * q)
    return point("out", linear("output_linear", gated)), (window[1:], h)


def s4d(c, p, prefix, u, state, point):
    """One token; the state has one part, h."""
    (h,) = state
    ssm_out, h = diagonal_ssm(c, p, prefix + "kernel.", prefix + "D", u, h, point)
    both = p[prefix + "output_linear.weight"] @ point("gelu", torch.nn.functional.gelu(ssm_out))
    value, gate = (both + p[prefix + "output_linear.bias"]).chunk(2)
    value, gate = point("value", value), point("gate", torch.sigmoid(gate))
    return point("out", value * gate), (h,)


def check_convolution(c, p):
    """s4d()'s recurrence gives the convolution with its kernel, by PyTorch's transforms."""
    prefix, length = "backbone.layers.0.mixer.", 23
    u = torch.linspace(-1, 1, length * c.d_model, dtype=torch.float64).reshape(length, c.d_model)
    dt, A, C = poles(c, p, prefix + "kernel.", unchanged)
    powers = torch.exp((dt * A)[..., None] * torch.arange(length))
    kernel = ((C * (torch.exp(dt * A) - 1) / A)[..., None] * powers).sum(1)
    kernel = kernel.real if c.is_complex else kernel
    spectrum = torch.fft.rfft(kernel, 2 * length) * torch.fft.rfft(u.T, 2 * length)
    expected = torch.fft.irfft(spectrum, 2 * length)[:, :length].T + p[prefix + "D"] * u
    state, found = zero_state(c)[0], []
    for row in u:
        def keep(name, value):
            if name == "ssm_out":
                found.append(value)
            return value
        state = s4d(c, p, prefix, row, state, keep)[1]
    assert torch.allclose(torch.stack(found), expected, rtol=0, atol=1e-12)


def check_norm_against_torch(c, p):
    x = torch.linspace(-1, 2, c.d_model, dtype=torch.float64)
    expected = torch.nn.functional.layer_norm(
        x, x.shape, p["backbone.norm_f.weight"], p["backbone.norm_f.bias"], c.norm_eps)
    found = norm(c, p, "backbone.norm_f", x, unchanged)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def check_attention_against_torch(c, p):
    """attention() gives what PyTorch's own layer gives, where that can be asked for."""
    prefix = "backbone.layers.0.mixer."
    layer = torch.nn.MultiheadAttention(c.d_model, c.heads).double()
    joined = {kind: torch.cat([p[f"{prefix}{n}_proj.{kind}"] for n in "qkv"])
              for kind in ("weight", "bias")}
    layer.load_state_dict({"in_proj_weight": joined["weight"], "in_proj_bias": joined["bias"],
                           "out_proj.weight": p[prefix + "o_proj.weight"],
                           "out_proj.bias": p[prefix + "o_proj.bias"]})
    inputs = torch.linspace(-1, 1, 7 * c.d_model, dtype=torch.float64).reshape(7, 1, c.d_model)
    later = torch.ones(7, 7, dtype=torch.bool).triu(1)
    state, outputs = zero_state(c)[0], []
    for u in inputs[:, 0]:
        out, state = attention(c, p, prefix, u, state, unchanged)
        outputs.append(out)
    expected = layer(inputs, inputs, inputs, attn_mask=later)[0][:, 0]
    assert torch.allclose(torch.stack(outputs), expected, rtol=0, atol=1e-12)


def check_against_torch(c, p):
    """recurrent() gives what PyTorch's own layer of that name gives."""
    layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[c.cell](
        c.d_model, c.d_inner).double()
    prefix = "backbone.layers.0.mixer."
    layer.load_state_dict({n: p[prefix + n] for n in layer.state_dict()})
    inputs = torch.linspace(-1, 1, 7 * c.d_model, dtype=torch.float64).reshape(7, 1, c.d_model)
    state, outputs = zero_state(c)[0], []
    for u in inputs[:, 0]:
        out, state = recurrent(c, p, prefix, u, state, unchanged)
        outputs.append(out)
    expected = layer(inputs)[0][:, 0] @ p[prefix + "out_proj.weight"].T
    assert torch.allclose(torch.stack(outputs), expected, rtol=0, atol=1e-12)


def token_logits(c, p, token, state, point):
    """Logits after one token; replaces the entries of `state`, one a layer."""
    stream = point("embed", p["backbone.embedding.weight"][token])
    if c.max_positions:
        position = len(state[0][0])
        stream = stream + point("pos_embed", p["backbone.positions.weight"][position])
    for i in range(c.n_layers):
        here, layer = within(point, f"layers.{i}."), f"backbone.layers.{i}."
        stream = here("resid_pre", stream)
        u = norm(c, p, layer + "norm", here("layer_input", stream), here)
        mix = (attention if c.heads else recurrent if c.cell else h3 if c.h3
               else s4d if c.ssm_init else mixer2 if c.head_dim else mixer)
        u, inner = here("norm", u), within(here, "mixer.")
        out, state[i] = (c.own.token(p, i, u, state[i], inner) if c.own
                         else mix(c, p, layer + "mixer.", u, state[i], inner))
        stream = stream + out
        if c.d_intermediate:
            stream, of_mlp = here("resid_mid", stream), within(here, "mlp_")
            u = norm(c, p, layer + "norm2", of_mlp("input", stream), of_mlp)
            stream = stream + mlp(c, p, layer + "mlp.", of_mlp("norm", u), within(here, "mlp."))
        stream = here("resid_post", stream)
    hidden = point("norm_f", norm(c, p, "backbone.norm_f", stream, unchanged))
    head = p["backbone.embedding.weight" if c.tied else "lm_head.weight"]
    return point("logits", head @ hidden)


def zero_state(c):
    if c.heads:
        empty = torch.zeros(0, c.kv_heads, c.head_dim, dtype=torch.float64)
        return [(empty, empty) for _ in range(c.n_layers)]
    if c.own:
        return [c.own.start(i) for i in range(c.n_layers)]
    if c.cell:
        rows = 2 if c.cell == "lstm" else 1
        return [(torch.zeros(rows, c.d_inner, dtype=torch.float64),) for _ in range(c.n_layers)]
    if c.h3:
        return [(torch.zeros(c.d_state - 1, c.d_model, dtype=torch.float64),
                 torch.zeros(c.d_model, c.d_state, dtype=torch.float64))
                for _ in range(c.n_layers)]
    if c.ssm_init:
        return [(torch.zeros(c.d_inner, c.d_state, dtype=torch.float64),)
                for _ in range(c.n_layers)]
    return [(torch.zeros(c.d_conv - 1, c.d_conv_inner, dtype=torch.float64),
             torch.zeros(c.d_inner, c.d_state, dtype=torch.float64)) for _ in range(c.n_layers)]


def sequence_logits(c, p, tokens, start, point=unchanged):
    """Logits (len, vocab) and the state after the last token."""
    state = [tuple(point(f"layers.{i}.mixer.{name}", part)
                   for (_, name), part in zip(c.parts, layer)) for i, layer in enumerate(start)]
    if c.heads:
        state = list(start)
    return torch.stack([token_logits(c, p, t, state, point) for t in tokens]), state


def next_token_loss(logits, tokens):
    """Mean over all tokens that have a next one in their sequence."""
    losses = [torch.logsumexp(row, 0) - row[target]
              for all_rows, ids in zip(logits, tokens) for row, target in zip(all_rows, ids[1:])]
    return torch.stack(losses).mean()


# ---- What is expected ----


class Recorder:
    """Keeps every value that passes, by sequence."""

    def __init__(self):
        self.sequences = []

    def begin_sequence(self):
        self.sequences.append({})

    def __call__(self, name, value):
        self.sequences[-1].setdefault(name, []).append(value.detach())
        return value

    def names(self):
        return list(self.sequences[0])

    def has_one(self, name):
        """Whether all tokens have the same: A, and S4D's step sizes."""
        return name.endswith((".A", ".A_real", ".A_imag")) or (
            name.endswith(".dt") and f"{name[:-2]}A_real" in self.sequences[0])

    def values(self, name, join):
        """`join` puts the sequences' values together: stack of equal ones, cat of packed ones."""
        if self.has_one(name):
            return self.sequences[0][name][0]
        if name.endswith(("conv_state", "_start")):
            return torch.stack([s[name][0] for s in self.sequences])
        return join([torch.stack(s[name]) for s in self.sequences])


def is_per_state(name):
    return name.split(".")[-1] in ("decay", "B_bar", "write", "h", "readout_h")


def doubler(target):
    return lambda name, value: 2 * value if name == target else value


def detached(logits):
    return [row.detach() for row in logits]


def trainable(parameters):
    return {name: value.clone().requires_grad_() for name, value in parameters.items()}


def gradients(p, keep=lambda _: True):
    return {f"grad.{name}": value.grad for name, value in p.items() if keep(value)}


def random_tokens(c, count, generator):
    return torch.randint(c.vocab_size, (count,), generator=generator).tolist()


def expect_batch(c, parameters, batch):
    p, recorder, logits, ends = trainable(parameters), Recorder(), [], []
    for tokens in batch:
        recorder.begin_sequence()
        row, end = sequence_logits(c, p, tokens, zero_state(c), recorder)
        logits.append(row)
        ends.append(end)
    loss = next_token_loss(logits, batch)
    loss.backward()
    expected = {"input_ids": torch.tensor(batch), "logits": torch.stack(detached(logits)),
                "loss": loss.detach().reshape(1), **gradients(p)}
    for name in recorder.names():
        if not is_per_state(name):
            expected[f"point.{name}"] = recorder.values(name, torch.stack)
    for i in range(c.n_layers):
        for part, (name, _) in enumerate(c.parts):
            expected[f"point.layers.{i}.mixer.{name}_last"] = torch.stack(
                [end[i][part].detach() for end in ends])
    return expected


def expect_greedy(c, p, prompt):
    state, tokens = zero_state(c), list(prompt)
    with torch.no_grad():
        for t in range(PROMPT + GREEDY - 1):
            logits = token_logits(c, p, tokens[t], state, unchanged)[:c.vocab_size]
            if t + 1 < PROMPT:
                continue
            best = torch.topk(logits, 2)
            assert best.values[0] - best.values[1] > 1e-3, "too close for float32: other seed"
            tokens.append(int(best.indices[0]))
    return {"greedy": torch.tensor([tokens])}


def expect_training(c, parameters, batch):
    p, losses = trainable(parameters), []
    optimizer = adamw(p)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        logits = [sequence_logits(c, p, tokens, zero_state(c))[0] for tokens in batch]
        loss = next_token_loss(logits, batch)
        loss.backward()
        losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        optimizer.step()
    expected = {f"train.{name}": value.detach() for name, value in p.items()}
    return {"train.losses": torch.stack(losses), **expected}


def adamw(p):
    def decays(name):
        return not ("norm" in name or "bias_" in name or "kernel." in name or "filter_fn." in name
                    or name.endswith((".bias", "dt_bias", "A_log", ".B", ".C", ".D")))

    groups = [{"params": [v for n, v in p.items() if decays(n)], "weight_decay": 0.1},
              {"params": [v for n, v in p.items() if not decays(n)], "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)


def random_starts(c, generator):
    """For each packed sequence and layer, exact in float32 like the parameters."""
    def like(zeros, scale):
        values = scale * torch.randn(zeros.shape, generator=generator, dtype=torch.float64)
        return values.float().double()

    def start(name, zeros):
        value = like(zeros, {"conv": 1, "h": 0.5, "cell": 0.5, "queue": 1, "z": 1}[name])
        return value.abs() if name == "z" else value  # a sum of keys, which are positive

    return [[tuple(start(name, part) for (name, _), part in zip(c.parts, layer))
             for layer in zero_state(c)] for _ in PACKED_LENGTHS]


def starts_after(c, parameters, past):
    """The states after these tokens, through which no gradient goes."""
    with torch.no_grad():
        return [sequence_logits(c, parameters, tokens, zero_state(c))[1] if tokens
                else zero_state(c) for tokens in past]


def by_part(c, states, of=lambda value: value):
    """{layers.i.conv: (sequences, ...), ...}, for each part"""
    return {f"layers.{i}.{name}": torch.stack([of(state[i][part]) for state in states])
            for i in range(c.n_layers) for part, (name, _) in enumerate(c.parts)}


def run_packed(c, parameters, sequences, starts, point):
    """Parameters and starts with their gradients, logits, loss, ends."""
    p, logits, ends = trainable(parameters), [], []
    if not c.heads:
        starts = [[tuple(part.clone().requires_grad_() for part in layer) for layer in state]
                  for state in starts]
    for tokens, start in zip(sequences, starts):
        if isinstance(point, Recorder):
            point.begin_sequence()
        row, end = sequence_logits(c, p, tokens, start, point)
        logits.append(row)
        ends.append(end)
    loss = next_token_loss(logits, sequences)
    loss.backward()
    return p, starts, torch.cat(detached(logits)), loss.detach().reshape(1), ends


def gradient_or_zeros(value):
    """No loss follows the start of a sequence of one token, so it may have no gradient."""
    return torch.zeros_like(value) if value.grad is None else value.grad


def expect_packed(c, parameters, sequences, starts):
    recorder = Recorder()
    p, used, logits, loss, ends = run_packed(c, parameters, sequences, starts, recorder)
    expected = {"input_ids": torch.tensor(sum(sequences, [])),
                "lengths": torch.tensor(PACKED_LENGTHS), "logits": logits, "loss": loss,
                **gradients(p)}
    for prefix, states, of in (("start.", used, torch.detach), ("end.", ends, torch.detach),
                               ("grad.start.", used, gradient_or_zeros)):
        expected.update({prefix + n: v for n, v in by_part(c, states, of).items()})
    for name in recorder.names():
        if not is_per_state(name) or name.startswith("layers.1."):
            expected[f"point.{name}"] = recorder.values(name, torch.cat)
    edited_names = [n for n in recorder.names() if n.startswith("layers.1.")]
    return {f"packed.{n}": v for n, v in expected.items()}, edited_names


def expect_edited(c, parameters, sequences, starts, names):
    expected = {}
    for name in names:
        p, _, logits, _, _ = run_packed(c, parameters, sequences, starts, doubler(name))
        expected[f"edited.{name}.logits"] = logits
        vectors = gradients(p, lambda value: value.dim() == 1)
        expected.update({f"edited.{name}.{n}": v for n, v in vectors.items()})
    return expected


def expectations(c, parameters, generator):
    batch = [random_tokens(c, LENGTH, generator) for _ in range(ROWS)]
    sequences = [random_tokens(c, length, generator) for length in PACKED_LENGTHS]
    past = {}
    if c.heads:
        tokens = [random_tokens(c, length, generator) for length in PAST_LENGTHS]
        past = {"packed.past_ids": torch.tensor(sum(tokens, [])),
                "packed.past_lengths": torch.tensor(PAST_LENGTHS)}
        starts = starts_after(c, parameters, tokens)
    else:
        starts = random_starts(c, generator)
    packed, names = expect_packed(c, parameters, sequences, starts)
    return {**past, **expect_batch(c, parameters, batch), **expect_greedy(c, parameters, batch[0][:PROMPT]),
            **expect_training(c, parameters, batch), **packed,
            **expect_edited(c, parameters, sequences, starts, names)}


# ---- Files ----


def write_safetensors(path, tensors):
    codes = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
    header, data = {}, b""
    for name, value in sorted(tensors.items(), key=lambda t: (-t[1].element_size(), t[0])):
        raw = value.contiguous().numpy().tobytes()
        header[name] = {"dtype": codes[value.dtype], "shape": list(value.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def transformers_config(c):
    return {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": c.vocab,
            "hidden_size": c.d_model, "num_hidden_layers": c.n_layers, "state_size": c.d_state,
            "expand": c.expand, "conv_kernel": c.d_conv, "use_conv_bias": c.conv_bias,
            "use_bias": c.bias, "hidden_act": "silu", "layer_norm_epsilon": 1e-5,
            "rms_norm": True, "residual_in_fp32": True, "tie_word_embeddings": c.tied,
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
            "intermediate_size": c.d_inner, "time_step_rank": c.dt_rank}


def falcon_config(c):
    """Published with an `expand` that is not the one meant: intermediate_size is."""
    return {**transformers_config(c), "model_type": "falcon_mamba",
            "architectures": ["FalconMambaForCausalLM"], "expand": 16,
            "mixer_rms_eps": c.mixer_norm_eps, "eos_token_id": 11, "pad_token_id": 11}


def mamba2_config(c):
    config = transformers_config(c)
    del config["intermediate_size"], config["time_step_rank"]
    return {**config, "model_type": "mamba2", "architectures": ["Mamba2ForCausalLM"],
            "num_heads": c.n_heads, "head_dim": c.head_dim, "n_groups": c.n_groups,
            "chunk_size": 256, "norm_before_gate": False, "time_step_limit": list(c.dt_limit)}


def original_config(c, ssm_cfg):
    return {"d_model": c.d_model, "n_layer": c.n_layers, "vocab_size": c.vocab_size,
            "ssm_cfg": ssm_cfg, "rms_norm": not c.layer_norm, "residual_in_fp32": True,
            "fused_add_norm": True, "pad_vocab_size_multiple": 16 if c.head_dim and not c.heads else 8,
            "tie_embeddings": c.tied}


def write_transformers(folder, c, parameters):
    tensors = {n.replace("embedding.", "embeddings."): v.float() for n, v in parameters.items()}
    write_safetensors(folder / "model.safetensors", tensors)
    config = mamba2_config if c.head_dim else transformers_config
    write_config(folder, falcon_config(c) if c.mixer_norm_eps else config(c))


def write_original(folder, c, parameters, ssm_cfg, more=()):
    tensors = {n: v.float() for n, v in parameters.items()}
    if c.d_intermediate and not c.gelu:
        tensors = fused_mlps(tensors)
    write_safetensors(folder / "model.safetensors", tensors)
    write_config(folder, {**original_config(c, ssm_cfg), **dict(more)})


def fused_mlps(tensors):
    """As state-spaces/mamba's GatedMLP: fc1 has up_proj, then gate_proj."""
    fused = {}
    for name, value in tensors.items():
        if ".mlp.up_proj." in name:
            gate = tensors[name.replace("up_proj", "gate_proj")]
            fused[name.replace("up_proj", "fc1")] = torch.cat([value, gate])
        elif ".mlp.gate_proj." not in name:
            fused[name.replace("mlp.down_proj", "mlp.fc2")] = value
    return fused


def llama_config(c):
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": c.vocab,
            "hidden_size": c.d_model, "intermediate_size": c.d_intermediate,
            "num_hidden_layers": c.n_layers, "num_attention_heads": c.heads,
            "num_key_value_heads": c.kv_heads, "head_dim": c.head_dim, "hidden_act": "silu",
            "max_position_embeddings": 2048, "rms_norm_eps": c.norm_eps,
            "rope_theta": c.rope_theta, "rope_scaling": c.rope_scaling, "attention_bias": c.bias,
            "mlp_bias": False, "tie_word_embeddings": c.tied, "bos_token_id": 1, "eos_token_id": 2,
            "torch_dtype": "float32"}


def mistral_config(c):
    config = llama_config(c)
    for key in ("attention_bias", "mlp_bias", "rope_scaling"):
        del config[key]
    return {**config, "model_type": "mistral", "architectures": ["MistralForCausalLM"],
            "sliding_window": c.window}


def llama_name(name):
    for ours, theirs in (("backbone.embedding.", "model.embed_tokens."),
                         ("backbone.norm_f.", "model.norm."), ("backbone.layers.", "model.layers."),
                         (".norm.", ".input_layernorm."),
                         (".norm2.", ".post_attention_layernorm."), (".mixer.", ".self_attn.")):
        if ".layers." in name or ours.startswith("backbone."):
            name = name.replace(ours, theirs)
    return name


def write_llama(folder, c, parameters):
    write_safetensors(folder / "model.safetensors",
                      {llama_name(n): v.float() for n, v in parameters.items()})
    write_config(folder, mistral_config(c) if c.window else llama_config(c))


def write_original_pickle(folder, c, parameters, ssm_cfg):
    """As published ones: a tied head is there a second time, sharing the embedding's storage."""
    tensors = {n: v.float() for n, v in parameters.items()}
    if c.tied:
        tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    write_config(folder, original_config(c, ssm_cfg))


def write_config(folder, config):
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def make(name, seed, c, write, *extra):
    folder = FIXTURES / name
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    parameters = random_parameters(c, generator)
    if c.cell:
        check_against_torch(c, parameters)
    if c.ssm_init and not c.h3:
        check_convolution(c, parameters)
    if c.layer_norm:
        check_norm_against_torch(c, parameters)
    if c.heads and c.bias and not c.rope_theta:
        check_attention_against_torch(c, parameters)
    if c.own:
        c.own.check(parameters)
    write(folder, c, parameters, *extra)
    write_safetensors(folder / "expected.safetensors", expectations(c, parameters, generator))


def main():
    argparse.ArgumentParser(description=__doc__,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    make("transformers", 1,
         Config(d_model=20, n_layers=2, vocab_size=29, expand=1, d_state=16, d_conv=4, dt_rank=2,
                vocab=29), write_transformers)
    make("transformers-bias-untied", 2,
         Config(d_model=12, n_layers=2, vocab_size=23, expand=3, d_state=5, d_conv=2, dt_rank=3,
                vocab=23, bias=True, tied=False), write_transformers)
    make("original-padded", 3,
         Config(d_model=14, n_layers=2, vocab_size=29, expand=2, d_state=7, d_conv=1, dt_rank=1,
                vocab=32), write_original, {"d_state": 7, "d_conv": 1})
    make("original-pickle", 4,
         Config(d_model=9, n_layers=3, vocab_size=17, expand=2, d_state=3, d_conv=3, dt_rank=1,
                vocab=24, conv_bias=False), write_original_pickle,
         {"layer": "Mamba1", "d_state": 3, "d_conv": 3, "dt_rank": "auto", "conv_bias": False})
    make("falcon-mamba", 5,
         Config(d_model=10, n_layers=2, vocab_size=19, expand=2, d_state=6, d_conv=4, dt_rank=3,
                vocab=19, tied=False, mixer_norm_eps=1e-3), write_transformers)
    make("mamba2", 6,
         Config(d_model=12, n_layers=2, vocab_size=19, expand=2, d_state=5, d_conv=3, dt_rank=0,
                vocab=19, bias=True, tied=False, head_dim=4, n_groups=3, dt_limit=(0.1, 0.9)),
         write_transformers)
    make("mamba2-original", 7,
         Config(d_model=10, n_layers=2, vocab_size=21, expand=3, d_state=6, d_conv=4, dt_rank=0,
                vocab=32, conv_bias=False, head_dim=5, D_by_channel=True), write_original_pickle,
         {"layer": "Mamba2", "expand": 3, "d_state": 6, "headdim": 5, "conv_bias": False,
          "D_has_hdim": True})
    for seed, name, selective, gate in ((11, "time-invariant", (), True),
                                        (12, "selective-dt-C", ("dt", "C"), True),
                                        (13, "selective-B-no-gate", ("B",), False)):
        ssm_cfg = {"d_state": 3, "d_conv": 2, "expand": 1, "dt_rank": 2, "bias": not gate}
        ssm_cfg.update({f"selective_{part}": part in selective for part in ("dt", "B", "C")})
        make(name, seed,
             Config(d_model=7, n_layers=2, vocab_size=17, expand=1, d_state=3, d_conv=2,
                    dt_rank=2, vocab=24, bias=not gate, selective=selective, gate=gate),
             write_original, {**ssm_cfg, "gate": gate})
    for seed, cell in ((8, "rnn"), (9, "lstm"), (10, "gru")):
        make(cell, seed,
             Config(d_model=11, n_layers=2, vocab_size=21, expand=0, d_state=0, d_conv=0,
                    dt_rank=0, vocab=24, tied=cell != "gru", cell=cell, hidden_size=9),
             write_original, {"layer": cell, "hidden_size": 9})
    for seed, init in ((11, "legs"), (12, "real")):
        make("s4d-real" if init == "real" else "s4d", seed,
             Config(d_model=7, n_layers=2, vocab_size=19, expand=1, d_state=32, d_conv=0,
                    dt_rank=0, vocab=24, tied=init == "legs", ssm_init=init),
             write_original, {"layer": "S4D", "d_state": 32, "init": init})
    make("h3", 13,
         Config(d_model=6, n_layers=2, vocab_size=19, expand=1, d_state=6, d_conv=0, dt_rank=0,
                vocab=24, ssm_init="lin", h3=True),
         write_original, {"layer": "H3", "d_state": 6})
    make("llama", 11,
         Config(d_model=10, n_layers=2, vocab_size=21, expand=0, d_state=0, d_conv=0, dt_rank=0,
                vocab=21, tied=False, head_dim=6, heads=4, kv_heads=2, rope_theta=500.0,
                rope_scaling={"factor": 3.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 64, "rope_type": "llama3"},
                norm_eps=1e-6, d_intermediate=14), write_llama)
    make("mistral", 12,
         Config(d_model=12, n_layers=2, vocab_size=19, expand=0, d_state=0, d_conv=0, dt_rank=0,
                vocab=19, head_dim=4, heads=3, kv_heads=1, rope_theta=100.0, window=4,
                d_intermediate=10), write_llama)
    make("gpt2", 13,
         Config(d_model=12, n_layers=2, vocab_size=21, expand=0, d_state=0, d_conv=0, dt_rank=0,
                vocab=24, bias=True, head_dim=4, heads=3, kv_heads=3, layer_norm=True,
                d_intermediate=20, gelu=True, max_positions=32), write_original,
         {"layer": "attention", "num_heads": 3, "positions": "none", "qkv_proj_bias": True,
          "out_proj_bias": True},
         {"d_intermediate": 20, "mlp_multiple_of": 1, "mlp": "gelu_tanh", "mlp_bias": True,
          "max_positions": 32})
    make("mamba-mlp", 14,
         Config(d_model=6, n_layers=2, vocab_size=17, expand=2, d_state=3, d_conv=3, dt_rank=1,
                vocab=24, d_intermediate=128), write_original, {"d_state": 3, "d_conv": 3},
         {"d_intermediate": 100})
    own = [fixture_mixers.LinearAttention(kind, d_model=10, n_heads=2, d_k=3, d_v=4)
           for kind in ("linear_attention", "retnet", "gla")]
    own.append(fixture_mixers.WaveNet(d_model=7, d_inner=5, width=3, cycle=3))
    own.append(fixture_mixers.Hyena(d_model=6, l_max=8, filter_order=5, emb_dim=5))
    for seed, mixer in enumerate(own, 11):
        cfg = mixer.ssm_cfg()
        make(cfg["layer"], seed,
             Config(d_model=mixer.d_model, n_layers=3 if cfg["layer"] == "wavenet" else 2,
                    vocab_size=21, expand=0, d_state=0, d_conv=0, dt_rank=0, vocab=24, own=mixer),
             write_original, cfg)
    (FIXTURES / "README.md").write_text(README)


if __name__ == "__main__":
    main()
