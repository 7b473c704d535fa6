// SPDX-License-Identifier: Apache-2.0
#include "elapse/text/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>
#include <random>

namespace elapse {
namespace {

std::string nfc_of_the_whole(const std::string& text) {
  auto* composed = utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
  std::string out(reinterpret_cast<const char*>(composed));
  std::free(composed);
  return out;
}

TEST(Nfc, InPartsIsNfcOfTheWhole) {
  constexpr std::string_view kCharacters[] = {
      "a",      "e",      "q",      " ",      "\u00e9", "\u0131",     "\u0300",     "\u0301",
      "\u0308", "\u0323", "\u0345", "\u1100", "\u1161", "\u11a8",     "\uac00",     "\u212b",
      "\u4e00", "\u0344", "\u09c7", "\u09be", "\ufb1d", "\U0001F600", "\U0001D15E", "\u0340"};
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) {
      text += kCharacters[random() % std::size(kCharacters)];
    }
    ASSERT_EQ(nfc(text), nfc_of_the_whole(text)) << text;
  }
}

TEST(Nfc, KeepsNulBytes) {
  const std::string text("a\0e\u0301\0", 6);
  EXPECT_EQ(nfc(text), std::string("a\0\u00e9\0", 5));
}

TEST(Normalizer, TakesItsStepsInOrder) {
  Normalizer normalizer;
  std::string buffer;
  EXPECT_EQ(normalizer.apply("e\u0301", buffer), "e\u0301");
  normalizer.add_prepend("e");
  normalizer.add_nfc();
  EXPECT_EQ(normalizer.apply("\u0301", buffer), "\u00e9");
  EXPECT_EQ(normalizer.apply("", buffer), "");
}

}  // namespace
}  // namespace elapse
