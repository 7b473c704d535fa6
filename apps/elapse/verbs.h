// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <CLI/App.hpp>

// The program's verbs, one file each (train.cc has add_train_verb). Each adds its subcommand, whose
// callback does the work once the command line has been read: it prints, and throws elapse::Error
// for what goes wrong and CLI::ValidationError for arguments that do not go together.
namespace elapse {

void add_verbs(CLI::App& app);  // all that are built in, from a list the build generates

}  // namespace elapse
