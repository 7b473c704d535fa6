// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/ioi.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "elapse/experiments/ioi_adversarial.h"
#include "elapse/experiments/runs.h"
#include "elapse/interpret/circuit_search.h"
#include "elapse/train/trainer.h"

namespace elapse {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Held-out prompts with their answers, and a counterfactual of each.
struct Prompts {
  std::vector<IoiPrompt> prompts;
  TokenLists tokens, counterfactual;
  std::vector<Answer> answers;
};

Prompts held_out(const IoiTask& task, int64_t count, uint64_t seed) {
  Random random(seed, 7);
  Prompts all;
  for (int64_t i = 0; i < count; ++i) {
    all.prompts.push_back(task.held_out(i));
    all.tokens.push_back(all.prompts.back().tokens);
    all.counterfactual.push_back(task.counterfactual(all.prompts.back(), random).tokens);
    all.answers.push_back({all.prompts.back().indirect, all.prompts.back().subject});
  }
  return all;
}

TaskScore score_of(const LanguageModel& model, const TokenLists& tokens,
                   const std::vector<Answer>& answers) {
  return task_score(last_logits(model, pack(model, tokens)), answers);
}

void measure_task(const LanguageModel& model, const IoiTask& task, IoiResult& result) {
  const Prompts all = held_out(task, IoiTask::kHeldOutPrompts, 1);
  result.whole = score_of(model, all.tokens, all.answers);
  for (const bool swapped : {false, true}) {
    TokenLists tokens;
    std::vector<Answer> answers;
    for (size_t i = 0; i < all.prompts.size(); ++i) {
      if (all.prompts[i].first_swapped != swapped) continue;
      tokens.push_back(all.tokens[i]);
      answers.push_back(all.answers[i]);
    }
    result.by_order[swapped ? 1 : 0] = score_of(model, tokens, answers);
  }
}

void find_edges(const CircuitRunner& runner, const Prompts& all, double threshold,
                const OnExperimentProgress& progress, IoiResult& result) {
  const Distance distance = [&](const LastLogits& logits) {
    return mean(kl_divergences(runner.plain(), logits));
  };
  const AcdcResult found = acdc(runner, distance, threshold * distance(runner.other()), 8,
                                [&](int64_t done, int64_t total) {
                                  progress({"ACDC", done, total, ""});
                                });
  const LastLogits logits = runner.run({found.circuit}).front();
  result.edges = found.circuit.edges();
  result.edges_score = task_score(logits, all.answers);
  result.edges_faithfulness = faithfulness(runner.plain(), logits, all.answers);
}

// Layers are added while the circuit's KL from the model falls, until enough of it is gone.
IoiResult::Knockout measure_layers(const std::string& how, const CircuitRunner& runner,
                                   const Prompts& all, const IoiSettings& settings) {
  const int64_t n_layers = settings.model.n_layers;
  const Distance distance = [&](const LastLogits& logits) {
    return mean(kl_divergences(runner.plain(), logits));
  };
  const Score F = [&](const LastLogits& logits) {
    return mean(logit_differences(logits, all.answers));
  };
  const LastLogits empty = runner.run({circuit_of(n_layers, {})}).front();
  IoiResult::Knockout found = {
      .how = how,
      .empty = F(empty),
      .empty_absolute = mean_absolute(logit_differences(empty, all.answers)),
      .empty_kl = distance(empty),
      .layers = {},
      .minimality = {}};
  const GreedyResult greedy = greedy_layers(runner, distance, settings.enough * distance(empty));
  for (const GreedyStep& step : greedy.steps) found.layers.push_back(step.candidate + 1);
  std::sort(found.layers.begin(), found.layers.end());
  const LastLogits logits = runner.run({greedy.circuit}).front();
  found.score = task_score(logits, all.answers);
  found.faithfulness = faithfulness(runner.plain(), logits, all.answers);
  found.completeness = completeness(runner, F, found.layers, 16, settings.seed);
  found.minimality = minimality(runner, F, found.layers, 16, settings.seed);
  return found;
}

CircuitRunner mean_runner(const LanguageModel& model, const IoiTask& task, const Prompts& all,
                          const IoiSettings& settings) {
  Random random(settings.seed, 8);
  std::vector<TokenLists> runs(static_cast<size_t>(settings.counterfactuals));
  for (TokenLists& run : runs) {
    for (const IoiPrompt& prompt : all.prompts) {
      run.push_back(task.counterfactual(prompt, random).tokens);
    }
  }
  return {model, all.tokens, mean_outputs(model, runs)};
}

// Prompts in which a name stands once more, and those that are searched for.
void attack(const LanguageModel& model, const IoiTask& task, const Prompts& all,
            const OnExperimentProgress& progress, IoiResult& result) {
  struct Again {
    const char* name;
    int64_t (*who)(const IoiPrompt&);
  };
  const Again agains[] = {{"indirect object again", [](const IoiPrompt& p) { return p.indirect; }},
                          {"subject again", [](const IoiPrompt& p) { return p.subject; }}};
  result.adversarial.push_back(
      {"as they are", std::ssize(all.tokens), score_of(model, all.tokens, all.answers)});
  for (const Again& again : agains) {
    TokenLists tokens;
    for (const IoiPrompt& prompt : all.prompts) {
      tokens.push_back(task.with_name_again(prompt, again.who(prompt)));
    }
    result.adversarial.push_back(
        {again.name, std::ssize(tokens), score_of(model, tokens, all.answers)});
  }
  const std::vector<IoiAttack> attacks = search_attacks(model, task, all.prompts, progress);
  TokenLists tokens;
  std::vector<Answer> answers;
  for (const IoiAttack& a : attacks) {
    tokens.push_back(a.tokens(task));
    answers.push_back({a.prompt.indirect, a.prompt.subject});
  }
  result.adversarial.push_back(
      {"searched for", std::ssize(tokens), score_of(model, tokens, answers)});
  constexpr size_t kTold = 5;
  for (size_t i = 0; i < std::min(kTold, attacks.size()); ++i) {
    std::string text;
    for (const int64_t token : tokens[i]) text += task.word(token) + " ";
    result.worst.push_back(
        fmt::format("{:+.2f}  {}| {}", attacks[i].difference, text, task.word(answers[i].right)));
  }
}

void inspect(const LanguageModel& model, const IoiTask& task, const IoiSettings& settings,
             const OnExperimentProgress& progress, IoiResult& result) {
  const Prompts all = held_out(task, settings.prompts, settings.seed);
  const CircuitRunner resampled(model, all.tokens, all.counterfactual);
  find_edges(resampled, all, settings.threshold, progress, result);
  progress({"layers' circuits", 0, 2, ""});
  result.knockouts.push_back(measure_layers("resample", resampled, all, settings));
  progress({"layers' circuits", 1, 2, ""});
  result.knockouts.push_back(
      measure_layers("mean", mean_runner(model, task, all, settings), all, settings));
  progress({"layers' circuits", 2, 2, ""});
  std::vector<PromptPair> pairs;
  for (size_t i = 0; i < all.tokens.size(); ++i) {
    pairs.push_back({all.tokens[i], all.counterfactual[i], all.answers[i]});
  }
  PatchingOptions options;
  options.progress = [&](int64_t done, int64_t total) { progress({"patching", done, total, ""}); };
  result.patching = patch_layers_and_tokens(model, pairs, options);
  attack(model, task, all, progress, result);
}

}  // namespace

IoiSettings IoiSettings::quick(const IoiLists& lists) {
  IoiSettings s;
  s.lists = lists;
  const IoiTask task(s.seed, s.lists);
  s.model = ModelConfig::mamba(64, 4, task.vocab_size());
  s.train.length = task.length();
  s.train.batch_tokens = 128 * task.length();
  s.train.steps = 1500;
  s.train.schedule = {.kind = Schedule::Kind::warmup_stable_decay,
                      .peak_lr = 2e-3,
                      .min_lr = 2e-4,
                      .warmup_steps = 50,
                      .decay_steps = 500};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0.1};
  return s;
}

IoiRun run_ioi(Device& device, const IoiSettings& settings, const OnExperimentProgress& progress) {
  IoiRun run;
  const IoiTask task(settings.seed, settings.lists);
  run.model =
      std::make_unique<LanguageModel>(device, settings.model, settings.activations, settings.seed);
  IoiResult& result = run.result;
  result.device = device_text(device, settings.activations);
  result.parameters = run.model->parameters().count();
  auto start = Clock::now();
  Trainer trainer(*run.model, task, settings.train);
  for (int64_t step = 0; step < settings.train.steps; ++step) {
    result.losses.push_back(trainer.step().loss);
    progress({"train", step + 1, settings.train.steps,
              fmt::format("loss {:.4f}", result.losses.back())});
  }
  result.training_seconds = seconds_since(start);
  start = Clock::now();
  measure_task(*run.model, task, result);
  if (result.whole.accuracy >= kIoiAccuracyNeeded) {
    inspect(*run.model, task, settings, progress, result);
  }
  result.inspecting_seconds = seconds_since(start);
  return run;
}

}  // namespace elapse
