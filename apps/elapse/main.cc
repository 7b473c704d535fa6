// SPDX-License-Identifier: Apache-2.0
// The elapse program: finds the verb and turns what goes wrong into a sentence and an exit status
// (0: done, 1: an error, 2: wrong usage, 128 and a signal's number: ended by it, as by Ctrl-C).
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>

#include "apps/elapse/checks.h"
#include "apps/elapse/interrupt.h"
#include "apps/elapse/output.h"
#include "apps/elapse/verbs.h"
#include "elapse/core/error.h"

namespace {

constexpr int kErrorStatus = 1;
constexpr int kUsageStatus = 2;
constexpr int kSignalStatus = 128;

constexpr const char* kAbout =
    "elapse: sequence models whose memory has a constant size (Mamba) - train them, run them, look "
    "inside them.";
constexpr const char* kFooter =
    "Examples:\n"
    "  elapse train --text book.txt --out run      train a model on a text's bytes\n"
    "  elapse generate --model run --prompt Once   stream text from it\n"
    "  elapse info mamba-130m                      what is in a checkpoint\n"
    "  elapse tokenize --model run --text Once     the tokens a text is to it\n"
    "  elapse experiment induction --quick         a published result, in two minutes\n"
    "  elapse train --help                         every flag of a verb, with its default";

int report_error(const char* sentence) {
  fmt::print(stderr, "elapse: {}\n", sentence);
  return kErrorStatus;
}

// The verb parsed does its work, unless help was asked for or the usage is wrong.
int run_verb(CLI::App& app, int argc, char** argv) {
  try {
    elapse::check_verb(app, {argv + 1, argv + std::max(1, argc)});
    app.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsageStatus;
  }
}

int run(CLI::App& app, int argc, char** argv) {
  try {
    const int status = run_verb(app, argc, argv);
    elapse::check_output();
    return status;
  } catch (const elapse::Interrupted& end) {
    report_error(end.what());
    return kSignalStatus + end.signal();
  } catch (const elapse::Error& error) {
    return report_error(error.what());
  } catch (const std::bad_alloc&) {
    return report_error("out of memory");
  } catch (const std::exception& error) {
    return report_error(error.what());
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error to report
  CLI::App app(kAbout, "elapse");
  app.footer(kFooter);
  app.set_version_flag("--version", "elapse " ELAPSE_VERSION);
  app.require_subcommand(1);
  elapse::add_verbs(app);
  return run(app, argc, argv);
}
