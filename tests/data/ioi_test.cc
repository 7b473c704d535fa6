// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/ioi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "elapse/core/error.h"

namespace elapse {
namespace {

std::string text_of(const IoiTask& task, const std::vector<int64_t>& tokens) {
  std::string text;
  for (const int64_t token : tokens) text += (text.empty() ? "" : " ") + task.word(token);
  return text;
}

TEST(IoiTask, NamesTheIndirectObjectOnceAndTheSubjectTwice) {
  const IoiTask task(1);
  std::set<size_t> forms;
  std::set<bool> orders;
  for (int64_t i = 0; i < 200; ++i) {
    const IoiPrompt prompt = task.held_out(i);
    EXPECT_EQ(std::ssize(prompt.tokens), task.length());
    const auto times = [&](int64_t t) {
      return std::count(prompt.tokens.begin(), prompt.tokens.end(), t);
    };
    EXPECT_EQ(times(prompt.indirect), 1) << text_of(task, prompt.tokens);
    EXPECT_EQ(times(prompt.subject), 2) << text_of(task, prompt.tokens);
    const auto place = [&](int64_t t) {
      return std::find(prompt.tokens.begin(), prompt.tokens.end(), t);
    };
    EXPECT_EQ(place(prompt.indirect) < place(prompt.subject), prompt.first_swapped);
    forms.insert(prompt.form);
    orders.insert(prompt.first_swapped);
  }
  EXPECT_EQ(forms.size(), 8u);
  EXPECT_EQ(orders.size(), 2u);
}

TEST(IoiTask, TrainingNeverSeesTheHeldOutPairs) {
  const IoiTask task(1);
  const auto pairs_of = [&](const TokenBatch& batch) {
    std::set<std::set<int64_t>> pairs;
    for (size_t s = 0; s < batch.lengths.size(); ++s) {
      std::set<int64_t> names;
      for (int64_t t = 0; t < task.length(); ++t) {
        const int64_t token = batch.tokens[s * size_t(task.length()) + size_t(t)];
        const auto& all = task.lists().names;
        if (std::find(all.begin(), all.end(), task.word(token)) != all.end()) names.insert(token);
      }
      EXPECT_EQ(names.size(), 2u);
      pairs.insert(names);
    }
    return pairs;
  };
  const auto held_out = pairs_of(task.held_out_batch(0, task.length()));
  const auto seen = pairs_of(task.training_batch(3, 0, 2000, task.length()));
  for (const auto& pair : held_out) EXPECT_FALSE(seen.contains(pair));
  EXPECT_GT(held_out.size(), 30u);
  EXPECT_GT(seen.size(), 150u);
}

TEST(IoiTask, CounterfactualsHaveThreeOtherNamesInTheSameSentence) {
  const IoiTask task(1);
  Random random(5);
  for (int64_t i = 0; i < 50; ++i) {
    const IoiPrompt prompt = task.held_out(i);
    const IoiPrompt other = task.counterfactual(prompt, random);
    std::set<int64_t> names = {prompt.indirect, prompt.subject, other.indirect, other.subject,
                               other.subject_again};
    EXPECT_EQ(names.size(), 5u);
    int64_t changed = 0;
    for (size_t t = 0; t < prompt.tokens.size(); ++t) {
      changed += prompt.tokens[t] != other.tokens[t] ? 1 : 0;
    }
    EXPECT_EQ(changed, 3);
  }
}

TEST(IoiTask, PutsANameBetweenTheClauses) {
  IoiLists lists = IoiLists::own();
  lists.templates.resize(1);
  const IoiTask task(1, lists);
  const IoiPrompt prompt = task.held_out(0);
  const std::string text = text_of(task, task.with_name_again(prompt, prompt.indirect));
  EXPECT_NE(text.find("together . then " + task.word(prompt.indirect) + " had a long talk . " +
                      task.word(prompt.subject) + " gave the"),
            std::string::npos)
      << text;
}

TEST(IoiTask, ShorterTemplatesBeginWithFillers) {
  const IoiTask task(1, IoiLists::parse(R"({"templates": ["[B] and [A] ran . [B] told",
      "so [B] and [A] ran to the [PLACE] . [B] told"], "names": ["a", "b", "c", "d", "e", "f"],
      "places": ["hill"], "objects": ["cup"]})",
                                        "lists"));
  EXPECT_EQ(task.length(), 11);
  for (int64_t i = 0; i < 20; ++i) {
    const IoiPrompt prompt = task.held_out(i);
    EXPECT_EQ(std::ssize(prompt.tokens), 11);
    EXPECT_EQ(task.word(prompt.tokens.back()), "told");
  }
}

TEST(IoiTask, RefusesListsThatMakeNoPrompts) {
  const auto parse = [](const char* templates) {
    return IoiLists::parse(std::string("{\"templates\": ") + templates +
                               R"(, "names": ["a", "b", "c", "d", "e", "f"], "places": ["p"],
                                 "objects": ["o"]})",
                           "lists");
  };
  EXPECT_NO_THROW(parse(R"(["[B] and [A] . [B]"])"));
  EXPECT_THROW(parse(R"(["[B] and [A]"])"), Error);
  EXPECT_THROW(parse("[]"), Error);
  EXPECT_THROW(parse("3"), Error);
  const IoiTask task(1);
  EXPECT_THROW(task.check_length(3), Error);
}

TEST(IoiTask, NeighboursDifferInOneThing) {
  const IoiTask task(1);
  const IoiPrompt prompt = task.held_out(3);
  const std::vector<IoiPrompt> near = task.neighbours(prompt);
  const IoiLists& lists = task.lists();
  EXPECT_LE(near.size(), lists.templates.size() + lists.places.size() + lists.objects.size() - 2);
  EXPECT_GT(near.size(), lists.templates.size());
  for (const IoiPrompt& p : near) {
    EXPECT_EQ(int(p.form != prompt.form) + int(p.first_swapped != prompt.first_swapped) +
                  int(p.place != prompt.place) + int(p.object != prompt.object),
              1);
    EXPECT_EQ(p.indirect, prompt.indirect);
    EXPECT_EQ(p.subject_again, prompt.subject);
    EXPECT_EQ(std::ssize(p.tokens), task.length());
    EXPECT_NE(p.tokens, prompt.tokens);
  }
}

}  // namespace
}  // namespace elapse
