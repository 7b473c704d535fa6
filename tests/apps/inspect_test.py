#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse inspect` from outside: every method ends in a table, JSON and a page, or a sentence."""
import json
import math
import pathlib
import shutil
import tempfile
import unittest

from checkpoints import FIXTURES, tensors_of
from program import PROGRAM, run, tiny_training

SCRATCH = tempfile.TemporaryDirectory()
unittest.addModuleCleanup(SCRATCH.cleanup)
FOLDER = pathlib.Path(SCRATCH.name)
HEADS = FOLDER / "heads"  # a model of one layer and 16 classes, without a tokenizer
PAIRS = FOLDER / "pairs.jsonl"
MODELS = [HEADS, FIXTURES / "mamba2", FIXTURES / "falcon-mamba"]


def setUpModule():
    made = run(*tiny_training(HEADS, steps=6))
    assert made.returncode == 0, made.stderr
    lines = []
    for first in range(3):
        clean = [first, 4, 15, 5 + first, 1, 15]
        lines.append({"clean": clean, "corrupt": clean[:3] + [9] + clean[4:],
                      "answer": 5 + first, "wrong": 9})
    PAIRS.write_text("".join(json.dumps(line) + "\n" for line in lines))


def inspect(method, *more, model=HEADS, prompts=PAIRS):
    given = ("--prompts", prompts) if prompts else ()
    return run(PROGRAM, "inspect", *method.split(), "-m", model, *given, "--device", "ref", *more)


def result_of(method, *more, **options):
    """What the method's JSON says; its table and page must be there too."""
    out = FOLDER / "out"
    shutil.rmtree(out, ignore_errors=True)
    done = inspect(method, *more, "--out", out, **options)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout, done.stdout
    page = (out / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "<script" not in page
    return json.loads((out / "result.json").read_text())


def row_of_first_layer(attribution):
    """What layer 0's state brought from each token."""
    return attribution["by_layer_and_source"][:len(attribution["columns"]) - 1]


class Methods(unittest.TestCase):
    def test_patching_ends_where_the_clean_run_is(self):
        for model in MODELS:
            for extra in ((), ("--noising",), ("--point", "mixer.h")):
                found = result_of("patch", *extra, model=model)
                self.assertEqual(len(found["score"]), found["layers"] * len(found["columns"]))
                self.assertLess(found["layer_tokens"], found["naive_layer_tokens"] * 2)
        found = result_of("patch")
        # The prompts differ in one token: patched before the only layer, it is the clean run.
        self.assertAlmostEqual(found["score"][3], 1, places=4)
        self.assertAlmostEqual(found["score"][5], 0, places=4)

    def test_paths_are_exact_and_attribution_is_their_first_order(self):
        exact = {(e["from"], e["to"]): e["change"] for e in result_of("path")["edges"]}
        self.assertEqual(set(exact), {("embed", "layers.0"), ("embed", "unembed"),
                                      ("layers.0", "unembed")})
        self.assertAlmostEqual(exact["embed", "unembed"], 0, places=5)  # the last token is the same
        # The prompts differ at token 3 alone.
        at = {place: result_of("path", "--positions", place)["edges"] for place in (3, -3, "0,-1")}
        self.assertAlmostEqual(at[3][0]["change"], exact["embed", "layers.0"], places=5)
        self.assertEqual(at[3], at[-3])
        self.assertAlmostEqual(at["0,-1"][0]["change"], 0, places=5)
        first_order = {(e["from"], e["to"]): e["change"]
                       for e in result_of("attribute", "--steps", 20)["edges"]}
        for edge, change in exact.items():
            self.assertLess(abs(first_order[edge] - change), 0.1 * abs(change) + 1e-4, edge)
        by_token = result_of("attribute", "--point", "mixer.x")
        self.assertEqual(len(by_token["change"]), 6)

    def test_circuits_are_told_beside_the_model(self):
        for method in ("acdc", "greedy", "attribution"):
            found = result_of("circuit", "--method", method, "--threshold", 1e-9, "--enough", 0.01)
            self.assertEqual(found["edges_of_model"], 3)
            self.assertLessEqual(len(found["edges"]), 3)
            self.assertLessEqual(found["kl"], 0.01 * found["kl_of_empty_circuit"] + 1e-9)

    def test_direct_attribution_sums_to_the_logit_difference(self):
        for model in MODELS:
            found = result_of("dla", model=model)
            self.assertAlmostEqual(found["embed"] + sum(found["by_layer"]),
                                   found["logit_difference"], places=4)
            width = len(found["columns"])
            for layer, share in enumerate(found["by_layer"]):
                row = found["by_layer_and_source"][layer * width:(layer + 1) * width]
                self.assertAlmostEqual(sum(row), share, places=4)
            layer = result_of("dla", "--layer", 0, model=model)
            self.assertAlmostEqual(sum(layer["by_channel"]) + layer["bias"], found["by_layer"][0],
                                   places=4)
            channel = result_of("dla", "--layer", 0, "--channel", 3, model=model)
            self.assertAlmostEqual(sum(channel["by_source_and_state"]),
                                   layer["by_channel"][3] - layer["skip"][3], places=4)
            attention = result_of("hidden-attention", "--layer", 0, "--over", "answer",
                                  model=model)["layers"][0]["alpha"]
            self.assertAlmostEqual(sum(attention[-6:]), sum(row_of_first_layer(found)), places=4)

    def test_lens_attention_and_step_sizes_cover_every_token(self):
        for model in MODELS:
            lens = result_of("lens", model=model)["cells"]
            self.assertEqual(len(lens) % 6, 0)
            for cell in lens:
                guesses = [guess["probability"] for guess in cell["likeliest"]]
                self.assertEqual(guesses, sorted(guesses, reverse=True))
                self.assertLessEqual(sum(guesses), 1 + 1e-6)
            for over in (("--over", "mean"), ("--over", "mean-absolute"), ("--over", "answer"),
                         ("--unit", 1)):
                attention = result_of("hidden-attention", *over, model=model)
                for layer in attention["layers"]:
                    rows = [layer["alpha"][i * 6:(i + 1) * 6] for i in range(6)]
                    self.assertTrue(all(row[j] == 0 for i, row in enumerate(rows)
                                        for j in range(i + 1, 6)))
            self.assertTrue(all(dt > 0 for dt in result_of("dt", model=model)["dt"]))

    def test_scrubbing_tells_all_its_losses(self):
        hypothesis = FOLDER / "hypothesis.json"
        node = {"name": "l0", "node": "layers.0", "reads": ["e"], "computes": "input"}
        embed = {"name": "e", "node": "embed", "computes": "input"}
        hypothesis.write_text(json.dumps(
            {"nodes": [{"name": "out", "node": "unembed", "reads": ["l0", "e"]}, node, embed]}))
        found = result_of("scrub", "--hypothesis", hypothesis, "--rounds", 2)
        self.assertAlmostEqual(found["recovered"], 1, places=4)
        self.assertAlmostEqual(found["scrubbed_loss"], found["model_loss"], places=5)
        hypothesis.write_text(json.dumps({"nodes": [{"name": "out", "node": "unembed"}]}))
        self.assertEqual(len(result_of("scrub", "--hypothesis", hypothesis)["scrubbed_losses"]), 3)
        node["positions"] = [-1]
        hypothesis.write_text(json.dumps(
            {"nodes": [{"name": "out", "node": "unembed", "reads": ["l0", "e"]}, node, embed]}))
        small = FOLDER / "small"
        command = tiny_training(small, steps=6)
        command[command.index("--d-model") + 1] = "4"
        made = run(*command)
        self.assertEqual(made.returncode, 0, made.stderr)
        found = result_of("scrub", "--hypothesis", hypothesis, "--rounds", 2, "--family", HEADS,
                          small)
        sizes = {m["parameters"]: m["loss"] for m in found["family"]}
        self.assertEqual(len(sizes), 2)
        self.assertAlmostEqual(sizes[max(sizes)], found["model_loss"], places=5)
        within = min(sizes.values()) <= found["scrubbed_loss"] <= max(sizes.values())
        self.assertEqual(found["parameters_of_equal_loss"] is not None, within)
        done = inspect("scrub", "--hypothesis", hypothesis, "--family", FIXTURES / "mamba2")
        self.assertIn("expected a model of 16 classes", done.stderr)
        node["position"] = 3
        hypothesis.write_text(json.dumps(
            {"nodes": [{"name": "out", "node": "unembed", "reads": ["l0", "e"]}, node, embed]}))
        done = inspect("scrub", "--hypothesis", hypothesis)
        self.assertIn('expected name, node, reads, computes or positions', done.stderr)
        del node["position"]
        node["positions"] = [6]
        hypothesis.write_text(json.dumps(
            {"nodes": [{"name": "out", "node": "unembed", "reads": ["l0", "e"]}, node, embed]}))
        done = inspect("scrub", "--hypothesis", hypothesis)
        self.assertIn('field "nodes[1].positions[0]": expected a token\'s place, -6 to 5',
                      done.stderr)
        del node["positions"]
        node["computes"] = "token:9"
        hypothesis.write_text(json.dumps({"nodes": [{"name": "out", "node": "unembed"}, node]}))
        done = inspect("scrub", "--hypothesis", hypothesis)
        self.assertEqual(done.returncode, 1)
        self.assertIn('field "nodes[1].computes": expected a token\'s place', done.stderr)

    def test_scores_of_repeated_tokens(self):
        for model in MODELS:
            found = result_of("scores", "--length", 8, "--sequences", 2, model=model, prompts=None)
            self.assertEqual(len(found["nats"]), 15)
            self.assertAlmostEqual(found["in_context"],
                                   found["second_half"] - found["first_half"], places=9)

    def test_caches_are_safetensors(self):
        file = FOLDER / "cache.safetensors"
        result_of("cache", "--points", "layers.*.mixer.dt,logits", "--positions", "1,3", "--save",
                  file)
        saved = tensors_of(file)
        self.assertEqual(set(saved), {"layers.0.mixer.dt", "logits"})
        self.assertEqual(saved["layers.0.mixer.dt"][1], [6, 16])

    def test_caches_are_compared(self):
        file = FOLDER / "clean.safetensors"
        result_of("cache", "--points", "*", "--save", file)
        found = result_of("cache", "--points", "*", "--against", file)["differences"]
        self.assertEqual({d["largest"] for d in found}, {0})
        edits = FOLDER / "edits.json"
        edits.write_text(json.dumps([{"point": "layers.0.mixer.out", "op": "zero",
                                      "positions": [-1]}]))
        found = result_of("cache", "--points", "layers.*.mixer.h,layers.*.mixer.out", "--edits",
                          edits, "--save", FOLDER / "edited.safetensors")
        self.assertEqual(found["points"], ["layers.0.mixer.h", "layers.0.mixer.out"])
        found = {d["point"]: d for d in result_of(
            "cache", "--points", "layers.0.mixer.y,layers.0.mixer.out,norm_f", "--edits", edits,
            "--against", file)["differences"]}
        self.assertEqual(found["layers.0.mixer.y"]["relative"], 0)  # before the edit
        self.assertGreater(found["layers.0.mixer.out"]["relative"], 0)
        self.assertGreater(found["norm_f"]["relative"], 0)

    def test_linear_attention_wavenet_and_hyena_are_looked_into(self):
        for mixer, point in (("linear_attention", "y"), ("retnet", "readout_h"), ("gla", "decay"),
                             ("wavenet", "taps"), ("hyena", "w")):
            model = FIXTURES / mixer
            found = result_of("patch", "--point", f"mixer.{point}", model=model)
            self.assertTrue(found["score"])
            for method in ("path", "lens", "attribute"):
                result_of(method, model=model)
            result_of("cache", "--points", "layers.*.mixer.*", "--save", FOLDER / "c.safetensors",
                      model=model)
            self.assertIn(f"layers.1.mixer.{point}".encode(),
                          (FOLDER / "c.safetensors").read_bytes())

    def test_recurrent_cells_are_looked_into_as_far_as_they_go(self):
        for cell, point in (("rnn", "mixer.h"), ("lstm", "mixer.c"), ("gru", "mixer.z")):
            model = FIXTURES / cell
            found = result_of("patch", "--point", point, model=model)
            self.assertEqual(len(found["score"]), 2 * len(found["columns"]))
            for method in ("patch", "path", "lens", "attribute"):
                result_of(method, model=model)
            found = result_of("dla", model=model)
            self.assertAlmostEqual(found["embed"] + sum(found["by_layer"]),
                                   found["logit_difference"], places=4)
            scores = result_of("scores", "--length", 4, model=model, prompts=None)
            self.assertEqual((len(scores["nats"]), scores["prefix_matching"]), (7, []))
            result_of("cache", "--points", "layers.*.mixer.*", "--save", FOLDER / "c.safetensors",
                      model=model)
            self.assertIn(b"layers.1.mixer.h", (FOLDER / "c.safetensors").read_bytes())
            for method in ("dla --layer 0", "hidden-attention", "dt"):
                done = inspect(method, model=model)
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"reads what Mamba mixers alone have: this model's are {cell}",
                              done.stderr)

    def test_edits_do_what_they_say(self):
        edits = FOLDER / "edits.json"
        edits.write_text(json.dumps(
            [{"point": "embed", "op": "scale", "value": 1},
             {"point": "layers.0.resid_pre", "op": "resample"},
             {"point": "layers.*.mixer.out", "op": "mean", "positions": [-1]}]))
        for model in MODELS:
            found = result_of("edit", "--edits", edits, "--each", model=model)
            self.assertEqual([v["edit"] for v in found["variants"]],
                             ["1: embed scale", "2: layers.0.resid_pre resample",
                              "3: layers.*.mixer.out mean"])
            same, resampled, mean = found["variants"]
            for before, after in zip(found["before"], same["after"]):
                self.assertAlmostEqual(before, after, places=4)
            self.assertGreater(resampled["mean_gap"], 0)
            self.assertGreater(mean["kl"], 0)
        together = result_of("edit", "--edits", edits)
        self.assertEqual([v["edit"] for v in together["variants"]], ["all edits"])
        reference = FOLDER / "reference.jsonl"
        reference.write_text('{"tokens": [1, 2]}\n')
        done = inspect("edit", "--edits", edits, "--reference", reference)
        self.assertEqual(done.returncode, 1)
        self.assertIn(f'{edits}: field "[1]": "resample" of prompt 0: expected reference prompts '
                      "of 6 tokens, found none", done.stderr)


class Texts(unittest.TestCase):
    def test_of_any_bytes_are_shown(self):
        text, model, prompts = FOLDER / "text.txt", FOLDER / "bytes", FOLDER / "texts.jsonl"
        text.write_text("When Zoë and Mary went out, Zoë called. " * 40)
        made = run(PROGRAM, "train", "--text", text, "--out", model, "--device", "ref", "--layers",
                   1, "--d-model", 8, "--length", 16, "--batch-tokens", 32, "--steps", 2,
                   "--warmup", 1, "--eval-every", 0)
        self.assertEqual(made.returncode, 0, made.stderr)
        prompts.write_text(json.dumps({"clean": "Zoë\n a", "corrupt": "Zoe\n  a", "answer": "M",
                                       "wrong": "Z"}) + "\n")
        columns = result_of("patch", model=model, prompts=prompts)["columns"]
        self.assertEqual(columns, ["0 Z", "1 o", "2 \\xc3", "3 \\xab", "4 ↵", "5 ·", "6 a"])
        self.assertEqual(len(result_of("dt", model=model, prompts=prompts)["tokens"]), 7)


class States(unittest.TestCase):
    def test_are_compared_mixed_and_transplanted(self):
        a, b, c = (FOLDER / name for name in ("a.state", "b.state", "c.state"))
        for file, tokens in ((a, "1,2,3"), (b, "4,5")):
            made = run(PROGRAM, "generate", "-m", HEADS, "--device", "ref", "--prompt-tokens",
                       tokens, "-n", 0, "--save-state", file)
            self.assertEqual(made.returncode, 0, made.stderr)
        between = ("--from", a, "--to", b)
        parts = result_of("state diff", *between, prompts=None)["parts"]
        self.assertEqual([p["part"] for p in parts], ["conv", "h"])
        self.assertTrue(all(p["difference"] > 0 for p in parts))
        narrow, saved = FIXTURES / "original-padded", FOLDER / "narrow.state"  # d_conv is 2 or 1
        for model in (narrow, FIXTURES / "transformers-bias-untied"):
            made = run(PROGRAM, "generate", "-m", model, "--device", "ref", "--prompt-tokens", "1,2",
                       "-n", 0, "--save-state", saved)
            self.assertEqual(made.returncode, 0, made.stderr)
            result_of("state show", "--from", saved, model=model, prompts=None)
            result_of("state diff", "--from", saved, "--to", saved, model=model, prompts=None)
        shown = result_of("state show", "--from", a, "--layer", 0, prompts=None)
        self.assertEqual(shown["tokens"], 3)
        self.assertTrue(all(p["norm"] > 0 for p in shown["parts"]))
        done = inspect("state interpolate", *between, "--share", 1, "--save", c, prompts=None)
        self.assertEqual(done.returncode, 0, done.stderr)
        parts = result_of("state diff", "--from", c, "--to", b, prompts=None)["parts"]
        self.assertTrue(all(p["difference"] == 0 for p in parts))
        done = inspect("state transplant", *between, "--layers", 0, "--part", "h", "--save", c,
                       prompts=None)
        self.assertEqual(done.returncode, 0, done.stderr)
        parts = result_of("state diff", "--from", c, "--to", a, prompts=None)["parts"]
        self.assertEqual([p["difference"] == 0 for p in parts], [False, True])
        done = inspect("state transplant", *between, "--layers", 0, "--channels", "0,1", "--save",
                       c, prompts=None)
        self.assertEqual(done.returncode, 0, done.stderr)
        parts = result_of("state diff", "--from", c, "--to", b, prompts=None)["parts"]
        self.assertTrue(all(0 < p["difference"] for p in parts))
        done = inspect("state transplant", *between, "--layers", 0, "--channels", "2,1", "--save",
                       c, prompts=None)
        self.assertIn("channels 2 to 0 are chosen", done.stderr)
        goes_on = run(PROGRAM, "generate", "-m", HEADS, "--device", "ref", "--load-state", c,
                      "--prompt-tokens", "1", "-n", 2)
        self.assertEqual(goes_on.returncode, 0, goes_on.stderr)
        stuck = run(PROGRAM, "generate", "-m", HEADS, "--device", "ref", "--load-state", c,
                    "--prompt-tokens", "", "-n", 2)
        self.assertEqual(stuck.returncode, 1)
        self.assertIn("saved without logits", stuck.stderr)
        done = inspect("state transplant", *between, "--layers", 0, "--save", b, prompts=None)
        self.assertEqual(done.returncode, 2)


class Refusals(unittest.TestCase):
    def refuse(self, words, *command, status=1, **options):
        done = inspect(*command, **options)
        self.assertEqual(done.returncode, status, done.stdout)
        self.assertIn(words, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_name_the_line_and_the_field(self):
        bad = FOLDER / "bad.jsonl"
        bad.write_text('{"clean": [1], "corrupt": [2], "answer": 1}\n')
        self.refuse(f'{bad}: line 1: expected a field "wrong"', "path", prompts=bad)
        bad.write_text('{"clean": "text", "corrupt": [2], "answer": 1, "wrong": 2}\n')
        self.refuse("expected token numbers, as the model has no tokenizer", "path", prompts=bad)
        bad.write_text('{"clean": [1, 2], "corrupt": [2], "answer": 1, "wrong": 2}\n')
        self.refuse("expected prompts of as many tokens", "path", prompts=bad)
        bad.write_text("nonsense")
        self.refuse(f"{bad}: line 1", "path", prompts=bad)

    def test_name_points_and_places(self):
        self.refuse('no point "layers.0.mixer.nothing"', "patch", "--point", "mixer.nothing")
        self.refuse("cannot be patched by token", "patch", "--point", "mixer.h_start")
        self.refuse("prompt 4 is asked for, but it has 3", "lens", "--line", 4)
        self.refuse("layer 7: the model has 1", "hidden-attention", "--layer", 7)
        self.refuse('point "blocks.0.hook_h.3": say the token in the positions', "cache",
                    "--points", "blocks.0.hook_h.3", "--save", FOLDER / "x.safetensors")
        edits = FOLDER / "states.json"
        edits.write_text(json.dumps([{"point": "embed", "op": "zero", "states": [0, 1]}]))
        self.refuse('states are selected, but its value has none', "edit", "--edits", edits)
        self.refuse('the model has no point "x"', "cache", "--points", "x", "--save",
                    FOLDER / "x.safetensors")


if __name__ == "__main__":
    unittest.main()
