// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/ioi.h"

#include <algorithm>
#include <sstream>

#include "elapse/core/error.h"
#include "elapse/data/streams.h"
#include "elapse/io/json.h"

namespace elapse {
namespace {

enum Slot : int64_t { kA = -1, kB = -2, kPlace = -3, kObject = -4 };

constexpr const char* kFiller = "<filler>";
// The sentence that names someone again.
constexpr const char* kAgain[] = {"then", "", "had", "a", "long", "talk", "."};
constexpr int64_t kHeldOutShare = 5;  // one pair in so many

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

std::vector<std::string> texts_of(const Json& json, std::string_view field, size_t least) {
  std::vector<std::string> texts;
  for (const Json& item : json.at(field).items()) texts.push_back(item.text());
  ELAPSE_CHECK(texts.size() >= least, "{}: expected at least {} entries, found {}",
               json.at(field).where(), least, texts.size());
  return texts;
}

}  // namespace

IoiLists IoiLists::own() {
  return {{"then , [B] and [A] went to the [PLACE] together . [B] gave the [OBJECT] to",
           "after lunch [B] and [A] met at the [PLACE] . later [B] handed the [OBJECT] to",
           "while [B] and [A] were both waiting at the [PLACE] , [B] passed the [OBJECT] to",
           "when [B] and [A] found a [OBJECT] at the [PLACE] , [B] quickly offered it to",
           "[B] and [A] had a long talk in the [PLACE] . soon after [B] spoke to",
           "the [PLACE] where [B] and [A] met had a [OBJECT] . [B] gladly sold it to",
           "friends [B] and [A] saw a new [OBJECT] at the [PLACE] . [B] gave it to",
           "last night [B] and [A] cooked dinner in the [PLACE] . [B] served the [OBJECT] to"},
          {"Anna",  "Bruno", "Clara", "David", "Elena", "Felix", "Greta", "Henry",
           "Irene", "Jonas", "Karin", "Louis", "Maria", "Nils",  "Olga",  "Peter",
           "Rosa",  "Simon", "Tessa", "Urban", "Vera",  "Willy", "Xenia", "Yann"},
          {"market", "library", "harbour", "garden", "station", "theatre", "kitchen", "office"},
          {"book", "lamp", "basket", "letter", "guitar", "apple", "ticket", "blanket"}};
}

IoiLists IoiLists::parse(std::string_view json, const std::string& name) {
  const Json all = Json::parse(json, name);
  IoiLists lists = {texts_of(all, "templates", 1), texts_of(all, "names", 6),
                    texts_of(all, "places", 1), texts_of(all, "objects", 1)};
  for (size_t i = 0; i < lists.templates.size(); ++i) {
    const std::vector<std::string> words = words_of(lists.templates[i]);
    const auto times = [&](const char* slot) {
      return std::count(words.begin(), words.end(), slot);
    };
    ELAPSE_CHECK(times("[A]") == 1 && times("[B]") == 2,
                 "{}: expected [A] once and [B] twice, found {} and {} in \"{}\"",
                 all.at("templates").items()[i].where(), times("[A]"), times("[B]"),
                 lists.templates[i]);
  }
  return lists;
}

IoiTask::IoiTask(uint64_t seed, const IoiLists& lists) : seed_(seed), lists_(lists) {
  token(kFiller);
  for (const std::string& name : lists.names) names_.push_back(token(name));
  for (const std::string& place : lists.places) places_.push_back(token(place));
  for (const std::string& object : lists.objects) objects_.push_back(token(object));
  for (const std::string& form : lists.templates) {
    forms_.emplace_back();
    for (const std::string& word : words_of(form)) {
      forms_.back().push_back(word == "[A]"        ? kA
                              : word == "[B]"      ? kB
                              : word == "[PLACE]"  ? kPlace
                              : word == "[OBJECT]" ? kObject
                                                   : token(word));
    }
    length_ = std::max(length_, std::ssize(forms_.back()));
  }
  for (const char* word : kAgain) {
    if (*word != '\0') token(word);
  }
}

// A word's token, made if it has none.
int64_t IoiTask::token(const std::string& word) {
  const auto found = std::find(words_.begin(), words_.end(), word);
  if (found != words_.end()) return found - words_.begin();
  words_.push_back(word);
  return std::ssize(words_) - 1;
}

bool IoiTask::is_held_out(int64_t a, int64_t b) const {
  const auto [low, high] = std::minmax(a, b);
  return (low * 7 + high * 3) % kHeldOutShare == 0;
}

IoiPrompt IoiTask::draw(Random& random, bool held_out) const {
  const auto any = [&](const std::vector<int64_t>& of) {
    return of[static_cast<size_t>(random.below(std::ssize(of)))];
  };
  IoiPrompt prompt;
  prompt.form = static_cast<size_t>(random.below(std::ssize(forms_)));
  prompt.first_swapped = random.below(2) == 1;
  do {
    prompt.indirect = any(names_);
    prompt.subject = any(names_);
  } while (prompt.indirect == prompt.subject ||
           is_held_out(prompt.indirect, prompt.subject) != held_out);
  prompt.subject_again = prompt.subject;
  prompt.place = any(places_);
  prompt.object = any(objects_);
  fill(prompt);
  return prompt;
}

// Writes the tokens from what is in the slots.
void IoiTask::fill(IoiPrompt& prompt) const {
  const std::vector<int64_t>& form = forms_[prompt.form];
  prompt.tokens.assign(static_cast<size_t>(length_) - form.size(), 0);
  bool again = false;
  for (const int64_t slot : form) {
    if (slot >= 0) prompt.tokens.push_back(slot);
    else if (slot == kPlace) prompt.tokens.push_back(prompt.place);
    else if (slot == kObject) prompt.tokens.push_back(prompt.object);
    else if (slot == kA)
      prompt.tokens.push_back(prompt.first_swapped ? prompt.subject : prompt.indirect);
    else if (again) prompt.tokens.push_back(prompt.subject_again);
    else prompt.tokens.push_back(prompt.first_swapped ? prompt.indirect : prompt.subject);
    again = again || slot == kB;
  }
}

IoiPrompt IoiTask::held_out(int64_t index) const {
  Random random = sequence_random(seed_, Draw::held_out, 0, index);
  return draw(random, true);
}

IoiPrompt IoiTask::counterfactual(const IoiPrompt& prompt, Random& random) const {
  std::vector<int64_t> taken = {prompt.indirect, prompt.subject};
  const auto other = [&] {
    int64_t name = 0;
    do {
      name = names_[static_cast<size_t>(random.below(std::ssize(names_)))];
    } while (std::find(taken.begin(), taken.end(), name) != taken.end());
    taken.push_back(name);
    return name;
  };
  IoiPrompt made = prompt;
  made.indirect = other();
  made.subject = other();
  made.subject_again = other();
  fill(made);
  return made;
}

std::vector<IoiPrompt> IoiTask::neighbours(const IoiPrompt& prompt) const {
  std::vector<IoiPrompt> list;
  const auto add = [&](auto&& change) {
    list.push_back(prompt);
    change(list.back());
    fill(list.back());
    if (list.back().tokens == prompt.tokens) list.pop_back();
  };
  for (size_t form = 0; form < forms_.size(); ++form) {
    add([&](IoiPrompt& p) { p.form = form; });
  }
  add([&](IoiPrompt& p) { p.first_swapped = !p.first_swapped; });
  for (const int64_t place : places_) add([&](IoiPrompt& p) { p.place = place; });
  for (const int64_t object : objects_) add([&](IoiPrompt& p) { p.object = object; });
  return list;
}

std::vector<int64_t> IoiTask::with_name_again(const IoiPrompt& prompt, int64_t name) const {
  // The second clause begins after the mark before the second [B].
  const std::vector<int64_t>& form = forms_[prompt.form];
  const auto second = std::find(form.rbegin(), form.rend(), int64_t{kB});
  size_t at = prompt.tokens.size() - static_cast<size_t>(second - form.rbegin()) - 1;
  const auto is_mark = [&](int64_t t) { return word(t) == "." || word(t) == ","; };
  while (at > 0 && !is_mark(prompt.tokens[at - 1])) --at;
  std::vector<int64_t> inserted;
  for (const std::string word : kAgain) {
    const auto found = std::find(words_.begin(), words_.end(), word);
    inserted.push_back(word.empty() ? name : found - words_.begin());
  }
  std::vector<int64_t> tokens = prompt.tokens;
  tokens.insert(tokens.begin() + static_cast<int64_t>(at), inserted.begin(), inserted.end());
  return tokens;
}

std::string IoiTask::description() const {
  return fmt::format("indirect-object identification, {} templates, {} names, seed {}",
                     lists_.templates.size(), lists_.names.size(), seed_);
}

void IoiTask::check_length(int64_t length) const {
  ELAPSE_CHECK(length == length_,
               "indirect-object identification: expected a length of {}, found {}", length_,
               length);
}

namespace {

void append(const IoiPrompt& prompt, TokenBatch& batch) {
  batch.tokens.insert(batch.tokens.end(), prompt.tokens.begin(), prompt.tokens.end());
  batch.lengths.push_back(std::ssize(prompt.tokens));
  batch.logit_rows.push_back(std::ssize(batch.tokens) - 1);
  batch.targets.push_back(prompt.indirect);
}

}  // namespace

TokenBatch IoiTask::training_batch(int64_t step, int64_t first, int64_t count,
                                   int64_t length) const {
  check_length(length);
  TokenBatch batch;
  for (int64_t i = first; i < first + count; ++i) {
    Random random = sequence_random(seed_, Draw::training, step, i);
    append(draw(random, false), batch);
  }
  return batch;
}

int64_t IoiTask::held_out_batches(int64_t length) const {
  check_length(length);
  return 1;
}

TokenBatch IoiTask::held_out_batch(int64_t, int64_t length) const {
  check_length(length);
  TokenBatch batch;
  for (int64_t i = 0; i < kHeldOutPrompts; ++i) append(held_out(i), batch);
  return batch;
}

}  // namespace elapse
