#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`elapse train` from outside: what it writes, how it goes on, and what it says when it cannot."""
import json
import math
import os
import pathlib
import re
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

from checkpoints import FIXTURES, UNTIED, make_large, tensors_of
from program import PROGRAM, RESULTS, contents, run, tiny_training


class Train(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)

    def assert_done(self, result):
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def assert_fails(self, result, *parts, status=1):
        """With this status, and one sentence that has all `parts`."""
        self.assertEqual(result.returncode, status, result.stderr)
        for part in parts:
            self.assertIn(part, result.stderr)
        if status == 1:
            self.assertEqual(result.stderr.splitlines()[-1][:8], "elapse: ")

    def undisturbed(self, *more, **options):
        self.assert_done(run(*tiny_training(self.folder / "whole", *more, **options)))
        return contents(self.folder / "whole")


class Runs(Train):
    def test_writes_the_model_and_what_resuming_needs(self):
        result = self.assert_done(run(*tiny_training(self.folder / "run", steps=30)))
        self.assertEqual(sorted(contents(self.folder / "run")), sorted(RESULTS))
        self.assertIn("step 30 of 30: held-out loss", result.stdout)
        config = json.loads((self.folder / "run/config.json").read_text())
        self.assertEqual(config["model_type"], "mamba")
        self.assertEqual(config["hidden_size"], 8)

    def test_trains_transformers(self):
        cases = {("attention",): ["attention", "rotary", 64, None],
                 ("attention", "--heads", 4, "--kv-heads", 2, "--window", 3):
                     ["attention", "rotary", 64, 3],
                 ("gpt2", "--d-intermediate", 12): ["attention", "none", 12, None],
                 ("mamba", "--d-intermediate", 12): [None, None, 12, None]}
        def command(out, *mixer):
            return [PROGRAM, "train", "--task", "induction", "--out", self.folder / out, "--mixer",
                    *mixer, "--d-model", 8, "--layers", 1, "--batch-tokens", 32, "--length", 8,
                    "--warmup", 2, "--schedule", "constant", "--eval-length", 8]

        for number, (mixer, (layer, positions, wide, window)) in enumerate(cases.items()):
            whole, cut = f"whole-{number}", f"cut-{number}"
            self.assert_done(run(*command(whole, *mixer), "--steps", 6))
            config = json.loads((self.folder / whole / "config.json").read_text())
            self.assertEqual([config["ssm_cfg"].get(key) for key in ("layer", "positions")],
                             [layer, positions])
            self.assertEqual([config["d_intermediate"], config["ssm_cfg"].get("window")],
                             [wide, window])
            self.assert_done(run(*command(cut, *mixer), "--steps", 3))
            self.assert_done(run(*command(cut, *mixer), "--steps", 6, "--resume"))
            self.assertEqual(contents(self.folder / cut), contents(self.folder / whole))
            info = run(PROGRAM, "info", self.folder / whole)
            self.assertIn(f"of {wide} channels", self.assert_done(info).stdout)
        self.assert_fails(run(*command("no", "mamba", "--heads", 2)),
                          "--heads, --kv-heads and --window: mamba mixers have none")
        self.assert_fails(run(*command("no", "gpt2", "--heads", 3)),
                          "--heads: 3 do not divide --d-model 8")

    def test_trains_on_text(self):
        (self.folder / "text").write_text("to be or not to be " * 40)
        command = [PROGRAM, "train", "--text", self.folder / "text", "--out", self.folder / "run",
                   "--device", "ref", "--d-model", 8, "--layers", 1, "--batch-tokens", 64,
                   "--length", 16, "--steps", 5, "--schedule", "constant", "--eval-length", 16]
        result = self.assert_done(run(*command))
        self.assertIn("over 75 targets in sequences of up to 16 tokens", result.stdout)

    def test_trains_mamba2_which_the_other_verbs_read(self):
        out, text = self.folder / "run", self.folder / "text"
        text.write_text("to be or not to be " * 40)
        self.assert_done(run(PROGRAM, "train", "--text", text, "--out", out, "--mixer", "mamba2",
                             "--d-model", 8, "--layers", 1, "--d-state", 16, "--batch-tokens", 64,
                             "--length", 16, "--steps", 5, "--warmup", 2, "--eval-length", 16))
        config = json.loads((out / "config.json").read_text())
        self.assertEqual((config["model_type"], config["num_heads"], config["head_dim"]),
                         ("mamba2", 1, 16))
        said = self.assert_done(run(PROGRAM, "info", out)).stdout
        self.assertIn("mamba2, transformers layout", said)
        for verb in (("generate", "--prompt", "to be", "--max-tokens", 5), ("eval", "--text", text)):
            self.assert_done(run(PROGRAM, verb[0], "--model", out, *verb[1:], errors="replace"))

    def test_trains_recurrent_cells_which_the_other_verbs_read(self):
        out, text = self.folder / "run", self.folder / "text"
        text.write_text("to be or not to be " * 40)
        train = (PROGRAM, "train", "--text", text, "--out", out, "--mixer", "lstm", "--d-model", 8,
                 "--layers", 1, "--batch-tokens", 64, "--length", 16, "--warmup", 2,
                 "--eval-length", 16)
        self.assert_done(run(*train, "--steps", 5))
        self.assertEqual(json.loads((out / "config.json").read_text())["ssm_cfg"],
                         {"layer": "lstm", "hidden_size": 8})
        facts = json.loads(self.assert_done(run(PROGRAM, "info", out, "--json")).stdout)
        self.assertEqual((facts["architecture"], facts["state_bytes"]), ("lstm", 2 * 8 * 4))
        self.assertNotIn("d_state", facts)
        state = self.folder / "kept.state"
        for verb in (("generate", "--prompt", "to be", "--max-tokens", 5, "--save-state", state),
                     ("generate", "--load-state", state, "--max-tokens", 5),
                     ("eval", "--text", text)):
            self.assert_done(run(PROGRAM, verb[0], "--model", out, *verb[1:], errors="replace"))
        refused = run(*train, "--d-state", 4)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("--d-state: lstm mixers have none", refused.stderr)
        refused = run(PROGRAM, "convert", out, self.folder / "hf", "--layout", "transformers")
        self.assertIn("has no lstm mixers", refused.stderr)

    def test_trains_diagonal_state_spaces_which_the_other_verbs_read(self):
        text = self.folder / "text"
        text.write_text("to be or not to be " * 40)
        for mixer, init, state_bytes in (("s4d", "real", 8 * 6 * 4), ("h3", "inv", 8 * 11 * 4)):
            out, state = self.folder / mixer, self.folder / f"{mixer}.state"
            train = (PROGRAM, "train", "--text", text, "--out", out, "--mixer", mixer, "--d-model",
                     8, "--layers", 1, "--batch-tokens", 64, "--length", 16, "--warmup", 2,
                     "--eval-length", 16)
            self.assert_done(run(*train, "--steps", 5, "--d-state", 6, "--ssm-init", init))
            facts = json.loads(self.assert_done(run(PROGRAM, "info", out, "--json")).stdout)
            self.assertEqual((facts["architecture"], facts["state_bytes"]), (mixer, state_bytes))
            self.assertEqual(facts["mixer"],
                             {"layer": mixer.upper(), "d_state": 6, "init": init})
            for verb in (("generate", "--prompt", "to be", "--max-tokens", 5, "--save-state", state),
                         ("generate", "--load-state", state, "--max-tokens", 5),
                         ("eval", "--text", text)):
                self.assert_done(run(PROGRAM, verb[0], "--model", out, *verb[1:],
                                     errors="replace"))
        refused = run(PROGRAM, "train", "--text", text, "--out", self.folder / "odd", "--mixer",
                      "h3", "--d-model", 8, "--layers", 1, "--d-state", 7, "--batch-tokens", 64,
                      "--length", 16, "--steps", 5, "--warmup", 2)
        self.assertIn("expected an even number, two for each complex state, found 7",
                      refused.stderr)
        refused = run(PROGRAM, "train", "--text", text, "--out", self.folder / "wide", "--mixer",
                      "s4d", "--d-model", 1, "--layers", 1, "--d-state", 2**24, "--batch-tokens",
                      64, "--length", 16, "--steps", 5, "--warmup", 2)
        self.assertIn("d_state: expected at most 4096 with init legs, found 16777216",
                      refused.stderr)

    def test_trains_linear_attention_wavenet_and_hyena_which_the_other_verbs_read(self):
        text = self.folder / "text"
        text.write_text("to be or not to be " * 40)
        heads = {"num_heads": 1, "head_k_dim": 8, "head_v_dim": 8}
        wanted = {"linear_attention": (heads, (8 + 1) * 8), "retnet": ({**heads, "head_v_dim": 16},
                  16 * 8), "gla": ({"num_heads": 4, "head_k_dim": 1, "head_v_dim": 2}, 8),
                  "wavenet": ({"hidden_size": 8, "kernel_size": 2, "dilation_cycle": 2}, 3 * 8),
                  "hyena": ({"l_max": 1024, "filter_order": 64, "emb_dim": 33, "w": 14.0},
                            (6 + 1023) * 8)}
        for mixer, (fields, floats) in wanted.items():
            out, state = self.folder / mixer, self.folder / f"{mixer}.state"
            layers = 2 if mixer == "wavenet" else 1
            self.assert_done(run(PROGRAM, "train", "--text", text, "--out", out, "--mixer", mixer,
                                 "--d-model", 8, "--layers", layers, "--batch-tokens", 64,
                                 "--length", 16, "--warmup", 2, "--eval-length", 16, "--steps", 5))
            self.assertEqual(json.loads((out / "config.json").read_text())["ssm_cfg"],
                             {"layer": mixer, **fields})
            facts = json.loads(self.assert_done(run(PROGRAM, "info", out, "--json")).stdout)
            self.assertEqual((facts["architecture"], facts["state_bytes"]), (mixer, floats * 4))
            for verb in (("generate", "--prompt", "to be", "--max-tokens", 5,
                          "--save-state", state),
                         ("generate", "--load-state", state, "--max-tokens", 5),
                         ("eval", "--text", text)):
                self.assert_done(run(PROGRAM, verb[0], "--model", out, *verb[1:],
                                     errors="replace"))

    def test_a_hyena_sees_no_more_tokens_than_fit(self):
        for l_max, d_model, most in ((1, 8, 2**20), (2**20 + 1, 8, 2**20), (2**20, 512, 2**19)):
            with self.subTest(l_max=l_max):
                refused = run(PROGRAM, "train", "--task", "induction", "--mixer", "hyena", "--out",
                              self.folder / "run", "--d-model", d_model, "--layers", 1, "--l-max",
                              l_max)
                self.assert_fails(refused, f"--l-max: expected 2 to {most} with --d-model "
                                           f"{d_model} and --emb-dim 33, found {l_max}")

    def test_a_hyena_starts_from_the_filter_it_is_told(self):
        def train(*flags):
            return run(PROGRAM, "train", "--task", "induction", "--mixer", "hyena", "--out",
                       self.folder / "run", "--d-model", 8, "--layers", 1, "--l-max", 8,
                       "--length", 8, "--eval-length", 8, "--batch-tokens", 8, "--steps", 1,
                       *flags)
        self.assert_done(train("--emb-dim", 5, "--sine-freq", 0.5))
        config = json.loads((self.folder / "run" / "config.json").read_text())
        self.assertEqual(config["ssm_cfg"], {"layer": "hyena", "l_max": 8, "filter_order": 64,
                                             "emb_dim": 5, "w": 0.5})
        self.assert_fails(train("--emb-dim", 4), "--emb-dim: expected an odd number from 3 on")
        self.assert_fails(train("--sine-freq", 1001),
                          "--sine-freq: expected a number above 0, to 1000, found 1001")
        self.assert_fails(train("--sine-freq", 0), "--sine-freq: expected a number above 0")
        for flags in (("--l-max", 8), ("--emb-dim", 5), ("--sine-freq", 1)):
            refused = run(PROGRAM, "train", "--task", "induction", "--mixer", "gru", "--out",
                          self.folder / "gru", *flags)
            self.assert_fails(refused, "--l-max, --emb-dim and --sine-freq: gru mixers have none")

    def test_the_learning_rate_falls_to_a_tenth_of_its_peak(self):
        def rates(*more):
            log = self.folder / "log"
            self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, *more)))
            shutil.rmtree(self.folder / "run")
            return [json.loads(line)["lr"] for line in log.read_text().splitlines()]
        for peak in (0.003, 0.0001):
            found = rates("--lr", peak)
            self.assertEqual(max(found), peak)
            self.assertAlmostEqual(found[-1], peak / 10, delta=peak / 100)
        self.assertLess(rates("--min-lr", 0)[-1], 3e-6)

    def test_logs_an_object_a_step(self):
        log = self.folder / "run/log"
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, "--eval-every", 20)))
        steps = [json.loads(line) for line in log.read_text().splitlines()]
        self.assertEqual([s["step"] for s in steps], list(range(1, 61)))
        self.assertEqual([s["length"] for s in steps], [4] * 20 + [8] * 40)
        self.assertEqual([s["step"] for s in steps if "eval_loss" in s], [20, 40, 60])
        for key in ("loss", "lr", "gradient_norm", "tokens", "seconds"):
            self.assertIn(key, steps[0])


class Resuming(Train):
    def interrupted(self, command, log, number, delay=0):
        """A process that got a signal after some steps and `delay` seconds."""
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (log.exists() and log.stat().st_size > 1000):
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(number)
        process.messages = process.communicate()[1]
        return process

    def test_a_stop_amid_any_product_is_clean(self):
        text, log = self.folder / "text", self.folder / "log"
        text.write_text("to be or not to be " * 2000)
        for i in range(12):
            command = [PROGRAM, "train", "--text", text, "--out", self.folder / str(i), "--log", log,
                       "--length", 64, "--batch-tokens", 256, "--threads", 1, "--eval-every", 0]
            stopped = self.interrupted([str(c) for c in command], log, signal.SIGTERM, i * 0.005)
            self.assertEqual(stopped.returncode, 128 + signal.SIGTERM, stopped.messages)
            log.unlink()

    def test_ctrl_c_saves_and_resuming_gives_the_bytes_of_an_undisturbed_run(self):
        whole = self.undisturbed("--save-every", 0, steps=3000)
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                out, log = self.folder / number.name, self.folder / f"{number.name}.log"
                command = tiny_training(out, "--log", log, "--save-every", 0, steps=3000)
                process = self.interrupted(command, log, number)
                self.assertEqual(process.returncode, 128 + number)
                self.assertRegex(process.messages, r"stopped and saved after step \d+")
                self.assertNotEqual(contents(out), whole)
                self.assertIn("resuming after step", self.assert_done(run(*command, "--resume")).stderr)
                self.assertEqual(contents(out), whole)
                steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
                self.assertEqual(steps, list(range(1, 3001)))

    def test_the_log_goes_on_from_the_checkpoint(self):
        log = self.folder / "log"
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log)))
        lines = log.read_text().splitlines(keepends=True)
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, "--resume")))
        self.assertEqual(log.read_text(), "".join(lines))
        # As a process killed after it had logged more than it had saved, and amid a line, left it.
        log.write_text("".join(lines) + '{"step": 61}\n{"st')
        self.assert_done(run(*tiny_training(self.folder / "run", "--log", log, "--resume")))
        self.assertEqual(log.read_text(), "".join(lines))

    def test_with_nothing_there_it_starts(self):
        result = self.assert_done(run(*tiny_training(self.folder / "run", "--resume")))
        self.assertIn("nothing to resume yet", result.stderr)
        self.assertEqual(contents(self.folder / "run"), self.undisturbed())

    def test_runs_of_before_the_settings_named_every_mixer_go_on(self):
        self.assert_done(run(*tiny_training(self.folder / "run", steps=30)))
        resume = self.folder / "run/resume.safetensors"
        data = resume.read_bytes()
        start = 8 + struct.unpack_from("<Q", data)[0]
        header = json.loads(data[8:start])
        for name in ("mixer", "model"):
            del header["__metadata__"][f"elapse.{name}"]
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        resume.write_bytes(struct.pack("<Q", len(text)) + text + data[start:])
        self.assert_done(run(*tiny_training(self.folder / "run", "--resume", steps=30)))

    def test_a_constant_learning_rate_can_be_continued_further(self):
        constant = ("--schedule", "constant", "--curriculum", "")
        self.assert_done(run(*tiny_training(self.folder / "run", *constant, steps=30)))
        self.assert_done(run(*tiny_training(self.folder / "run", *constant, "--resume")))
        self.assert_done(run(*tiny_training(self.folder / "whole", *constant)))
        self.assertEqual(contents(self.folder / "run"), contents(self.folder / "whole"))

    def test_other_settings_are_an_error_that_names_them(self):
        self.assert_done(run(*tiny_training(self.folder / "run")))
        before = contents(self.folder / "run")
        for flag, value, name in (("--lr", 0.5, "lr"), ("--d-state", 3, "d_state"),
                                  ("--seed", 9, "data"), ("--clip", 2, "clip"),
                                  ("--mixer", "mamba2", "mixer"), ("--d-model", 16, "d_model"),
                                  ("--layers", 2, "layers"), ("--steps", 90, "steps"),
                                  ("--schedule", "constant", "schedule")):
            result = run(*tiny_training(self.folder / "run", flag, value, "--resume"))
            self.assert_fails(result, "resume.safetensors: ", f'"{name}" was "', 'found "')
        self.assertEqual(contents(self.folder / "run"), before)


class FromACheckpoint(Train):
    """--model"""

    def setUp(self):
        super().setUp()
        self.text, self.first = self.folder / "text", self.folder / "first"
        self.text.write_text("to be or not to be " * 40)

    def training(self, out, *more, steps=1):
        return [PROGRAM, "train", "--text", self.text, "--out", self.folder / out, "--device",
                "ref", "--batch-tokens", 64, "--length", 16, "--steps", steps, "--schedule",
                "constant", "--warmup", 0, "--eval-every", 0, "--eval-length", 16, *more]

    def held_out_loss(self, *command):
        said = self.assert_done(run(*command)).stdout
        return float(re.search(r"held-out loss (\S+) nats", said)[1])

    def measured_loss(self, model, *more):
        """What `elapse eval` finds on the last tenth of the text."""
        held_out, file = self.folder / "held_out", self.folder / "result.json"
        size = self.text.stat().st_size
        held_out.write_bytes(self.text.read_bytes()[size - (size + 9) // 10:])
        self.assert_done(run(PROGRAM, "eval", "-m", model, "--text", held_out, "--device", "ref",
                             "-w", 17, "--stride", 16, "--json", file, *more))
        return json.loads(file.read_text())["nats_per_token"]

    def test_begins_with_its_weights_and_ends_with_a_model(self):
        self.assert_done(run(*self.training("first", "--d-model", 8, "--layers", 1, "--lr", 0.03,
                                            steps=100)))
        self.text.write_text("to do or not to do " * 40)
        expected = self.measured_loss(self.first)
        hardly = ("--model", self.first, "--lr", 1e-12)
        self.assertAlmostEqual(self.held_out_loss(*self.training("same", *hardly)), expected,
                               delta=2e-4)
        tuned = self.held_out_loss(*self.training("tuned", "--model", self.first, "--lr", 0.01,
                                                  steps=50))
        self.assertLess(tuned, expected - 0.1)
        self.assertAlmostEqual(self.measured_loss(self.folder / "tuned"), tuned, delta=2e-4)
        text = self.assert_done(run(PROGRAM, "generate", "-m", self.folder / "tuned", "-p", "to",
                                    "-n", 9, "--top-k", 1))
        self.assertEqual(len(text.stdout), 9)

    def test_reads_text_with_its_tokenizer_and_takes_it_along(self):
        model = make_large(self.folder / "words", d_model=8, n_layers=1, vocab=1008)
        (model / "generation_config.json").write_text('{"eos_token_id": 7}')
        tokenizer = FIXTURES / "tokenizers/llama3/tokenizer.json"
        chosen = ("--model", model, "--tokenizer")
        commands = [self.training("a", *chosen, tokenizer),
                    self.training("b", *chosen, tokenizer.parent)]
        self.assert_fails(run(*self.training("c", "--model", model)), "expected tokenizer.json")
        shutil.copy(tokenizer, model)
        commands.append(self.training("c", "--model", model))
        for command, name in zip(commands, "abc"):
            # All weights are zeros: every token is as likely.
            self.assertAlmostEqual(self.held_out_loss(*command), math.log(1008), delta=1e-4)
            made = contents(self.folder / name)
            self.assertEqual(made["tokenizer.json"], tokenizer.read_bytes())
            self.assertEqual("generation_config.json" in made, name == "c")
            tokens = self.assert_done(run(PROGRAM, "tokenize", "-m", self.folder / name, "--text",
                                          "to be", "--count"))
            self.assertLess(int(tokens.stdout), 5)

    def test_trains_weights_of_16_bits_in_float32(self):
        narrow, out = self.folder / "narrow", self.folder / "out"
        self.assert_done(run(PROGRAM, "convert", UNTIED, narrow, "--dtype", "bf16"))
        more = ("--text", self.text, "--model", narrow)
        self.assert_fails(run(PROGRAM, "train", *more, "--out", out), "expected tokenizer.json")
        self.assert_done(run(PROGRAM, "train", "--task", "induction", "--model", narrow, "--out",
                             out, "--device", "ref", "--batch-tokens", 32, "--length", 8,
                             "--steps", 2, "--schedule", "constant", "--eval-length", 8))
        before, after = tensors_of(narrow / "model.safetensors"), tensors_of(out /
                                                                            "model.safetensors")
        self.assertEqual({name: t[1] for name, t in before.items()},
                         {name: t[1] for name, t in after.items()})
        self.assertEqual({t[0] for t in after.values()}, {"F32"})

    def test_resumes_bit_for_bit(self):
        self.assert_done(run(*self.training("first", "--d-model", 8, "--layers", 1, steps=2)))
        more = ("--model", self.first)
        self.assert_done(run(*self.training("whole", *more, steps=9)))
        self.assert_done(run(*self.training("cut", *more, steps=4)))
        self.assert_done(run(*self.training("cut", *more, "--resume", steps=9)))
        self.assertEqual(contents(self.folder / "cut"), contents(self.folder / "whole"))

    def test_goes_on_from_the_same_alone(self):
        sizes = ("--d-model", 8, "--layers", 1)
        for name, seed in (("first", 1), ("other", 2)):
            self.assert_done(run(*self.training(name, *sizes, "--seed", seed, steps=2)))
        self.assert_done(run(*self.training("new", *sizes, steps=2)))
        self.assert_done(run(*self.training("tuned", "--model", self.first, steps=2)))
        before = contents(self.folder / "tuned")
        other = ("--model", self.folder / "other")
        for out, more, was, found in (("tuned", other, "the model of ", "the model of "),
                                      ("tuned", sizes, "the model of ", "random weights"),
                                      ("new", other, "random weights", "the model of ")):
            result = run(*self.training(out, *more, "--resume", steps=3))
            self.assert_fails(result, f'"model" was "{was}', f'found "{found}')
        self.assertEqual(contents(self.folder / "tuned"), before)

    def test_is_not_replaced(self):
        self.assert_done(run(*self.training("first", "--d-model", 8, "--layers", 1, steps=2)))
        self.assert_fails(run(*self.training("first", "--model", self.first)), "--resume continues")
        self.assert_fails(run(*self.training("out", "--model", self.folder / "none")), "none: expec")
        published = self.folder / "published"
        shutil.copytree(FIXTURES / "mamba2-original", published)
        before = contents(published)
        self.assert_fails(run(PROGRAM, "train", "--task", "induction", "--model", published,
                              "--out", published), "bin: expected a folder without a model")
        self.assertEqual(contents(published), before)
        self.assertFalse((self.folder / "out").exists())


class Errors(Train):
    def test_two_at_once_in_one_folder(self):
        out, log = self.folder / "run", self.folder / "log"
        command = tiny_training(out, "--log", log, steps=10**6)
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as one:
            while one.poll() is None and not (log.exists() and log.stat().st_size > 1000):
                time.sleep(0.001)
            self.assert_fails(run(*command, "--resume"), "run: another process is at work in this")
            one.terminate()
        steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
        self.assertEqual(steps, list(range(1, len(steps) + 1)))
        self.assertEqual(sorted(contents(out)), sorted(RESULTS))
        with subprocess.Popen([*command, "--resume"], stderr=subprocess.PIPE) as again:
            self.assertIn(b"resuming after step", again.stderr.readline())
            again.kill()

    def test_a_run_is_not_replaced_by_accident(self):
        whole = self.undisturbed()
        self.assert_fails(run(*tiny_training(self.folder / "whole")), "--resume continues it")
        self.assertEqual(contents(self.folder / "whole"), whole)

    def test_a_model_is_not_replaced_by_accident(self):
        (self.folder / "model.safetensors").write_text("precious")
        for more in ((), ("--resume",)):
            self.assert_fails(run(*tiny_training(self.folder, *more)), "training would replace it")
        self.assertEqual(contents(self.folder), {"model.safetensors": b"precious"})

    def test_what_would_read_the_new_models_text_is_not_left_beside_it(self):
        for name in ("tokenizer.json", "merges.txt", "generation_config.json", "config.json"):
            out = self.folder / name.split(".")[0]
            out.mkdir()
            (out / name).write_text("precious")
            self.assert_fails(run(*tiny_training(out)), f"{name}: expected a folder without a model",
                              "or a part of one")
            self.assertEqual(contents(out), {name: b"precious"})

    def test_no_input_is_replaced_by_the_log(self):
        text, out = self.folder / "text", self.folder / "run"
        text.write_text("to be or not to be " * 40)
        self.undisturbed(steps=3)
        model = self.folder / "whole"
        for more, log, says in ((["--text", text], text, "which --text reads"),
                                (["--text", text], out / "config.json", f"a file of --out {out}"),
                                (["--text", self.folder / "none", text], text, "--text reads"),
                                (["--task", "induction", "--model", model],
                                 model / "model.safetensors", "a file of --model")):
            before = log.read_bytes() if log.exists() else None
            result = run(PROGRAM, "train", *more, "--out", out, "--log", log)
            self.assert_fails(result, f"--log: {log} would be replaced, ", says, status=2)
            self.assertEqual(log.read_bytes() if log.exists() else None, before)
        self.assertFalse(out.exists())

    def test_a_loss_that_is_not_finite_stops_the_run(self):
        command = tiny_training(self.folder / "run", "--schedule", "constant", "--lr", "1e30",
                                "--warmup", 0)
        result = run(*command)
        self.assert_fails(result, "training stopped at step 2: the loss is ",
                          'the first tensor that is not finite: point "layers.0.',
                          "run/resume.safetensors of step 0")
        self.assertEqual(sorted(contents(self.folder / "run")), sorted(RESULTS))

    def test_a_disk_full_at_the_first_checkpoint(self):
        result = self.run_with_little_space(tiny_training(self.folder / "run"))
        self.assert_fails(result, "run/resume.safetensors: ", "after 4096 of ")
        self.assertEqual(contents(self.folder / "run"), {})

    def test_a_disk_full_later_loses_nothing(self):
        constant = ("--schedule", "constant")
        command = tiny_training(self.folder / "run", *constant, steps=30)
        self.assert_done(run(*command))
        before = contents(self.folder / "run")
        command = tiny_training(self.folder / "run", *constant, "--resume", "--curriculum", "4:10")
        self.assert_fails(self.run_with_little_space(command), "resume.safetensors: ")
        self.assertEqual(contents(self.folder / "run"), before)

    @staticmethod
    def run_with_little_space(command):
        """As on a disk on which no file can grow above 4096 bytes."""
        limit = (4096, 4096)
        return run(*command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))

    def test_a_folder_that_cannot_be_written(self):
        (self.folder / "file").write_text("x")
        self.assert_fails(run(*tiny_training(self.folder / "file/run")), "file/run: cannot make")
        self.assert_fails(run(*tiny_training("/proc/run")), "/proc/run: cannot make the folder")
        if os.geteuid() == 0:
            return  # root may write anywhere
        (self.folder / "locked").mkdir(mode=0o500)
        self.assert_fails(run(*tiny_training(self.folder / "locked")), "cannot write beside it")

    def test_a_log_that_cannot_be_written(self):
        (self.folder / "file").write_text("x")
        result = run(*tiny_training(self.folder / "run", "--log", self.folder / "file/log"))
        self.assert_fails(result, "file/log: cannot make its folder")
        self.assertFalse((self.folder / "run").exists())
        result = run(*tiny_training(self.folder / "run", "--log", "/dev/full"))
        self.assert_fails(result, "/dev/full: cannot write step 1: No space left on device")

    def test_bad_texts(self):
        (self.folder / "empty").write_text("")
        (self.folder / "short").write_text("short")
        os.mkfifo(self.folder / "pipe")
        for name, sentence in (("empty", "empty: expected text, found an empty file"),
                               ("short", "short: too short for sequences of 256 tokens"),
                               ("none", "none: cannot open"),
                               ("pipe", "pipe: expected a regular file or a shell's pipe, found"),
                               ("/dev/zero", "found a device")):
            command = [PROGRAM, "train", "--text", self.folder / name, "--out",
                       self.folder / "run", "--device", "ref"]
            self.assert_fails(run(*command), sentence)
        self.assertFalse((self.folder / "run").exists())

    def test_impossible_sizes(self):
        sizes = "expected a whole number from 1 to 16777216"
        for flag, value, part in (("--d-model", 0, f'--d-model: {sizes}, found "0"'),
                                  ("--layers", -1, f'--layers: {sizes}, found "-1"'),
                                  ("--d-state", 10**12, f"--d-state: {sizes}"),
                                  ("--length", 7, "multiple of the length 7"),
                                  ("--batch-tokens", 0, "--batch-tokens: expected"),
                                  ("--accumulate", 0, "--accumulate: expected"),
                                  ("--accumulate", 9, "expected 9 to"),
                                  ("--steps", 0, "--steps: expected"),
                                  ("--steps", 10**19, "--steps: expected a whole number of at"),
                                  ("--steps", 2**32, "--steps: expected 1 to 4294967295"),
                                  ("--warmup", -1, "--warmup: expected"),
                                  ("--eval-length", 0, "--eval-length: expected"),
                                  ("--seed", -1, '"-1"'),
                                  ("--ordinary-tokens", 13, "from 14 to 15"),
                                  ("--lr", "nan", "--lr: expected a positive number"),
                                  ("--min-lr", -1, "--min-lr: expected 0 to the peak of 0.003"),
                                  ("--min-lr", 1, "--min-lr: expected 0 to"),
                                  ("--warmup", 61, "--warmup: expected at most the 60 steps"),
                                  ("--weight-decay", -1, "--weight-decay: expected 0 or more"),
                                  ("--clip", -1, "--clip: expected 0 (no clipping) or more"),
                                  ("--beta1", 1, "--beta1: ")):
            with self.subTest(flag=flag, value=value):
                result = run(*tiny_training(self.folder / "run", f"{flag}={value}"))
                self.assert_fails(result, part, status=2)
        self.assertFalse((self.folder / "run").exists())

    def test_a_default_that_does_not_go_with_what_is_given_is_said_to_be_one(self):
        command = [PROGRAM, "train", "--task", "induction", "--out", self.folder / "run"]
        self.assert_fails(run(*command, "--length", 7), "--batch-tokens: expected a multiple of "
                          "the length 7, found 2048, which is its default", status=2)

    def test_the_default_warm_up_of_a_short_run_is_a_tenth_of_it(self):
        for schedule, steps, peak_at in (("cosine", 30, 3), ("wsd", 30, 3), ("constant", 5, 100)):
            with self.subTest(schedule=schedule):
                log = self.folder / f"{schedule}.jsonl"
                run(PROGRAM, "train", "--task", "induction", "--out", self.folder / schedule,
                    "--d-model", 8, "--layers", 1, "--length", 16, "--batch-tokens", 32,
                    "--steps", steps, "--schedule", schedule, "--lr", 1, "--log", log,
                    "--eval-every", 0, "--eval-length", 16)
                rates = [json.loads(line)["lr"] for line in log.read_text().splitlines()]
                self.assertAlmostEqual(rates[0], 1 / peak_at)
                if peak_at < steps:
                    self.assertAlmostEqual(rates[peak_at - 1], 1)

    def test_more_than_the_machine_has(self):
        for flag, value in (("--d-model", 10**7), ("--layers", 10**7),
                            ("--curriculum", f"{10**13}:5"), ("--length", 10**13)):
            with self.subTest(flag=flag):
                result = run(*tiny_training(self.folder / "run", f"{flag}={value}"))
                self.assert_fails(result, "needs at least")
        huge = run(PROGRAM, "train", "--task", "induction", "--mixer", "lstm", "--d-model", 2**22,
                   "--layers", 2**16, "--out", self.folder / "run")
        self.assert_fails(huge, "needs at least")
        lags = run(PROGRAM, "train", "--task", "induction", "--mixer", "hyena", "--d-model", 8,
                   "--layers", 2**12, "--l-max", 2**20, "--out", self.folder / "run")
        self.assert_fails(lags, "needs at least")
        self.assertFalse((self.folder / "run").exists())

    def test_every_task_is_trained_and_tested(self):
        for task, more, targets in (("selective-copying", ["--data-tokens", 3], 3 * 512),
                                    ("selective-copying", ["--task-vocab", 5], 16 * 512),
                                    ("associative-recall", ["--keys", 4], 512),
                                    ("mqar", ["--pairs", 2, "--task-vocab", 64], 2 * 512)):
            with self.subTest(task=task, more=more):
                out = self.folder / "-".join([task, *map(str, more)])
                result = run(PROGRAM, "train", "--task", task, *more, "--out", out, "--steps", 3,
                             "--length", 32, "--batch-tokens", 64, "--warmup", 1, "--d-model", 8,
                             "--layers", 1, "--eval-length", 32)
                self.assert_done(result)
                self.assertIn(f"over {targets} targets in sequences of up to 32 tokens",
                              result.stdout)

    def test_selection_and_gate_are_chosen(self):
        for more, has, has_not in ((["--selective", "none", "--no-gate"], ["B", "C"],
                                    ["x_proj.weight", "dt_proj.weight"]),
                                   (["--selective", "dt,C"], ["B", "x_proj.weight"], ["C"])):
            with self.subTest(more=more):
                out = self.folder / "-".join(more)
                self.assert_done(run(*tiny_training(out, *more, steps=9)))
                header = (out / "model.safetensors").read_bytes()[:4096].decode(errors="ignore")
                for name in has:
                    self.assertIn(f'"backbone.layers.0.mixer.{name}"', header)
                for name in has_not:
                    self.assertNotIn(f'"backbone.layers.0.mixer.{name}"', header)
                self.assert_done(run(PROGRAM, "train", "--task", "induction", "--model", out,
                                     "--out", f"{out}-on", "--steps", 2, "--warmup", 1,
                                     "--batch-tokens", 32, "--length", 8, "--eval-length", 8))
        for more in (["--selective", "dt", "--mixer", "gru"], ["--no-gate", "--mixer", "mamba2"],
                     ["--selective", "none,dt"], ["--selective", "A"]):
            self.assert_fails(run(*tiny_training(self.folder / "run", *more)), status=2)

    def test_a_task_that_cannot_be_drawn(self):
        for task, more, says in (("selective-copying", ["--data-tokens", 17], "at least 34"),
                                 ("associative-recall", ["--length", 33], "an even length"),
                                 ("mqar", ["--pairs", 9], "an even length of at least 36"),
                                 ("mqar", ["--task-vocab", 17], "a vocabulary of at least 18")):
            with self.subTest(task=task, more=more):
                result = run(PROGRAM, "train", "--task", task, "--out", self.folder / "run",
                             "--length", 32, "--batch-tokens", 32 * 33, *more)
                self.assert_fails(result, says)

    def test_an_unknown_device(self):
        result = run(*tiny_training(self.folder / "run", "--device", "abacus"))
        self.assert_fails(result, 'unknown device "abacus"')

    def test_wrong_usage(self):
        text = ["--text", "file"]
        for arguments in ([], ["unknown"], ["train"], ["train", *text],
                          ["train", "--out", "run"],
                          ["train", *text, "--task", "induction", "--out", "run"],
                          ["train", *text, "--out", "run", "--steps", "many"],
                          ["train", *text, "--out", "run", "--steps", "010"],
                          ["train", *text, "--out", "run", "--seed", "010"],
                          ["train", *text, "--out", "run", "--model", "m", "--mixer", "mamba2"],
                          ["train", "--task", "induction", "--out", "run", "--model", "m",
                           "--tokenizer", "t"],
                          ["train", *text, "--out", "run", "--schedule", "steep"],
                          ["train", *text, "--out", "run", "--curriculum", "16"],
                          ["train", *text, "--out", "run", "--curriculum", "16:1,"],
                          ["train", *text, "--out", "run", "--unknown"],
                          ["train", *text, "--out", ""], ["train", "--text", "", "--out", "run"],
                          ["train", *text, "--out", "run", "--log", ""],
                          ["train", *text, "--out", "run", "--model", ""],
                          ["train", *text, "--out", "run", "--model", "m", "--d-model", "8"],
                          ["train", *text, "--out", "run", "--model", "m", "--layers", "1"],
                          ["train", *text, "--out", "run", "--model", "m", "--d-state", "1"],
                          ["train", *text, "--out", "run", "--tokenizer", "t"]):
            with self.subTest(arguments):
                self.assert_fails(run(PROGRAM, *arguments), status=2)

    def test_an_unknown_verb_is_answered_with_those_there_are(self):
        result = run(PROGRAM, "trian", "--text", "file")
        self.assert_fails(result, "elapse: expected one of train, generate, eval, ", 'found "trian"',
                          'did you mean "train"', status=2)
        self.assert_fails(run(PROGRAM), "elapse: expected one of train, ", "found nothing", status=2)

    def test_help_and_version(self):
        self.assertIn("elapse train --text", self.assert_done(run(PROGRAM, "--help")).stdout)
        self.assertIn("Examples:", self.assert_done(run(PROGRAM, "train", "--help")).stdout)
        self.assertRegex(self.assert_done(run(PROGRAM, "--version")).stdout, r"^elapse \d+\.\d+")


if __name__ == "__main__":
    unittest.main()
