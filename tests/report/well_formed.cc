// SPDX-License-Identifier: Apache-2.0
#include "tests/report/well_formed.h"

#include <algorithm>
#include <vector>

namespace elapse {
namespace {

constexpr std::string_view kNameCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-:";

bool is_xml_character(char c) {
  return static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\t';
}

bool is_character_data(std::string_view text) {
  if (text.find_first_of("<>") != std::string_view::npos) return false;
  for (size_t at = text.find('&'); at != std::string_view::npos; at = text.find('&', at + 1)) {
    const auto is_here = [&](std::string_view entity) {
      return text.substr(at).starts_with(entity);
    };
    const auto known = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    if (std::none_of(known.begin(), known.end(), is_here)) return false;
  }
  return true;
}

// Removes `prefix` from the front of `text`, where it stands there.
bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// Removes everything before `delimiter` and, if it is there, the delimiter.
std::string_view take_until(std::string_view& text, char delimiter) {
  const size_t length = std::min(text.find(delimiter), text.size());
  const std::string_view taken = text.substr(0, length);
  text.remove_prefix(std::min(length + 1, text.size()));
  return taken;
}

std::string_view take_name(std::string_view& text) {
  const size_t length = std::min(text.find_first_not_of(kNameCharacters), text.size());
  const std::string_view name = text.substr(0, length);
  text.remove_prefix(length);
  return name;
}

// Removes attributes ` name="value"` as far as they are in order.
void take_attributes(std::string_view& text) {
  for (;;) {
    std::string_view rest = text;
    if ((!take(rest, " ") && !take(rest, "\n ")) || take_name(rest).empty() || !take(rest, "=\""))
      return;
    if (rest.find('"') == std::string_view::npos) return;
    if (!is_character_data(take_until(rest, '"'))) return;
    text = rest;
  }
}

// What is wrong with the tag <inside>, or ""; keeps account of open elements.
std::string tag_fault(std::string_view inside, std::vector<std::string_view>& open) {
  const std::string tag(inside);
  const bool closes = take(inside, "/");
  const std::string_view name = take_name(inside);
  take_attributes(inside);
  const bool empty = take(inside, " /") || take(inside, "/");
  if (name.empty() || !inside.empty() || (closes && empty)) return "bad tag: " + tag;
  if (!closes && !empty) open.push_back(name);
  if (!closes) return "";
  if (open.empty() || open.back() != name) return "unexpected end: " + tag;
  open.pop_back();
  return "";
}

}  // namespace

std::string xml_fault(std::string_view xml) {
  if (!std::all_of(xml.begin(), xml.end(), is_xml_character)) return "control character";
  take(xml, "<!DOCTYPE html>");
  std::vector<std::string_view> open;
  while (!xml.empty()) {
    const bool last = xml.find('<') == std::string_view::npos;
    const std::string_view content = take_until(xml, '<');
    if (!is_character_data(content)) return "bare markup in content: " + std::string(content);
    if (last) break;
    if (xml.find('>') == std::string_view::npos) return "tag without end";
    const std::string fault = tag_fault(take_until(xml, '>'), open);
    if (!fault.empty()) return fault;
  }
  return open.empty() ? "" : "never closed: " + std::string(open.back());
}

size_t count_of(std::string_view text, std::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string_view::npos; at = text.find(part, at + 1)) {
    ++count;
  }
  return count;
}

}  // namespace elapse
