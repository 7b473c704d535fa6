// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// Text on its way to a reader while it is made. Holds back the least it must: what may turn out to
// begin a stop string, and the bytes of a character that is not whole yet.
//
// The text ends before the stop string whose last byte comes first (of several ending there, before
// the longest). How the bytes are cut into pieces makes no difference to the whole. Bytes that are
// no UTF-8 pass unchanged.
class TextStream {
 public:
  explicit TextStream(std::vector<std::string> stops = {});  // Error for an empty stop string

  std::string push(std::string_view piece);  // what may be shown now; nothing after a stop
  std::string finish();                      // the rest, once no more comes
  bool stopped() const { return stopped_; }

 private:
  void push_byte(char byte);
  size_t begun_stop() const;
  std::string take(size_t count);

  std::vector<std::string> stops_;
  std::string pending_;
  bool stopped_ = false;
};

}  // namespace elapse
